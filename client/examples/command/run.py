"""Runs the command "lines" on whichever node has it: once in one go, and once as its input comes."""

import subprocess
from subprocess import PIPE

import ipcd_client

with ipcd_client.command("lines") as lines:
    done = lines.run(input=b"one\ntwo\n")
    print("in one go:", done.stdout.decode().strip())

    with lines.popen(stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(1000):
            print(number, file=process.stdin)
        process.stdin.close()
        print("as it comes:", process.stdout.read().strip(), "exit code", process.wait())
