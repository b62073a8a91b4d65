"""Reads the pipe `words`, and writes the same in capitals to the pipe `shouted`, until the end of the file.

ipcctl pipe read shouted &
python upper.py &
echo hello | ipcctl pipe write words
"""

from __future__ import annotations

import ipcd_client


def main() -> None:
    with ipcd_client.pipe("words").open_read() as words, ipcd_client.pipe("shouted").open_write() as shouted:
        for line in words:
            shouted.write(line.upper())


if __name__ == "__main__":
    main()
