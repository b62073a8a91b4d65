"""`python -m ipcd`."""

from ipcd.cli import main

if __name__ == "__main__":
    main()
