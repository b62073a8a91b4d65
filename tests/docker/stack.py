"""The containers of a compose file, under a name of their own, and gone without a trace afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from cluster.eventually import LONG
from cluster.program import Program

ROOT: Final = Path(__file__).parents[2]
# For what is not listed in `profiles` of the compose file, but may have been started by its name.
PROFILES: Final = "more"
# Seconds for a command of docker's, which may have to end containers.
PATIENCE: Final = 60.0


class DockerError(Exception):
    """A command failed; the text has its words."""


def run(*command: str, environment: dict[str, str] | None = None, timeout: float = PATIENCE) -> str:
    """What a command prints on standard output.

    Raises:
        DockerError: it cannot be run, fails, or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env=os.environ | (environment or {}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DockerError(str(error)) from error
    if done.returncode:
        raise DockerError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout


def docker(*arguments: str, timeout: float = PATIENCE) -> str:
    """`docker` with these arguments."""
    return run("docker", *arguments, timeout=timeout)


def compose_command() -> list[str]:
    """Version 2 of compose if docker has it, else version 1.

    Raises:
        DockerError: there is neither.
    """
    try:
        docker("compose", "version")
    except DockerError:
        if shutil.which("docker-compose") is None:
            raise DockerError("there is neither `docker compose` nor `docker-compose`") from None
        return ["docker-compose"]
    return ["docker", "compose"]


def base_image() -> str:
    """What the image is to be made from."""
    lines = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [default] = [line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE=")]
    return os.environ.get("DOCKER_BASE_IMAGE") or default


def reason() -> str:
    """Why there can be no containers here; empty if there can."""
    if shutil.which("docker") is None:
        return "there is no `docker`"
    try:
        docker("info")
    except DockerError as error:
        return f"no Docker daemon answers: {str(error).splitlines()[-1]}"
    try:
        compose_command()
    except DockerError as error:
        return str(error)
    try:
        docker("image", "inspect", base_image())
    except DockerError:
        return f"the base image {base_image()} is not here: pull it, or name another one by $DOCKER_BASE_IMAGE"
    return ""


def build(tag: str) -> None:
    """Makes the image of what is in the source tree."""
    run(
        str(ROOT / "docker" / "build"),
        tag,
        base_image(),
        environment={"PYTHON": sys.executable},
        timeout=300.0,
    )


class Stack:
    """The services of some compose files. `project`: what its containers are known by; `image`: what they are made of.

    Raises:
        DockerError: they cannot be started.
    """

    def __init__(self, *files: str, project: str, image: str) -> None:
        self.project = project
        self._environment = {"IPCD_IMAGE": image}
        self._command = compose_command()
        for file in files:
            self._command += ["-f", str(ROOT / file)]
        self._command += ["-p", project]
        self._folder = Path(tempfile.mkdtemp(prefix="ipcd-d-"))
        self._programs: dict[Program, Path] = {}  # with their logs
        self._containers: dict[Program, str] = {}
        try:
            self.up()
        except BaseException:
            self.close()
            raise

    def up(self, *arguments: str) -> None:
        """Starts what is not there. `--scale SERVICE=N SERVICE`: and has N of it."""
        self._compose("up", "--detach", "--no-recreate", "--timeout", "10", *arguments)

    def remove(self, service: str) -> None:
        """Ends the containers of one service, and forgets them."""
        self._compose("rm", "--force", "--stop", "-v", service)

    def containers(self, service: str) -> list[str]:
        """Ids of those of one service, whether they run or not."""
        return self._mine("ps", "--filter", f"label=com.docker.compose.service={service}")

    def container(self, service: str) -> str:
        """Of the only one."""
        [one] = self.containers(service)
        return one

    def network(self) -> str:
        """The name of the only one."""
        [name] = self._mine("network ls --format={{.Name}}")
        return name

    def inspect(self, service: str) -> dict[str, Any]:
        """All that docker knows of the container."""
        [found] = json.loads(docker("inspect", self.container(service)))
        return dict(found)

    def act(self, verb: str, service: str) -> float:
        """`docker VERB` on its container. Returns when that was done, by time.monotonic()."""
        docker(verb, *(["--time", "5"] if verb in {"restart", "stop"} else []), self.container(service))
        return time.monotonic()

    def plug(self, service: str, *, plugged: bool) -> float:
        """Takes its container off the network, or puts it there again. Returns when that was done."""
        docker("network", "connect" if plugged else "disconnect", self.network(), self.container(service))
        return time.monotonic()

    def run(self, service: str, *command: str) -> str:
        """What a command prints in its container."""
        return docker("exec", self.container(service), *command)

    def program(self, service: str, name: str) -> Program:
        """Starts a program in its container that does what it is told, until the container ends."""
        log = self._folder / f"{service}-{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [
                    *("docker", "exec", "--interactive", "--env", "PYTHONPATH=/tests", self.container(service)),
                    *("python", "-m", "cluster.program", "/run/ipcd/ipcd.sock"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                # Ctrl-C is for the tests, which then end it in order.
                process_group=0,
            )
        program = Program(f"{name} in {service}", process, lambda: log.read_text(errors="replace"))
        self._programs[program] = log
        self._containers[program] = self.container(service)
        return program

    def end(self, program: Program) -> list[str]:
        """Has it end: what went wrong, in words."""
        log = self._programs.pop(program)
        container = self._containers.pop(program)
        program.end()
        try:
            program.process.wait(LONG)
        except subprocess.TimeoutExpired:
            running = docker("top", container, "-eo", "pid,args").splitlines()[1:]
            pids = [int(line.split()[0]) for line in running if "cluster.program" in line]
            for pid in pids:
                os.kill(pid, signal.SIGUSR1)  # it writes where it stands to its log
            time.sleep(1.0)
            program.process.kill()
            program.process.wait(LONG)
            if pids or not running:
                return [f"{program.name} did not end:\n{log.read_text(errors='replace')}\n" + "\n".join(running)]
            # Seen once: `docker exec` goes on although what it ran has ended.
            print(f"docker exec of {program.name} did not end although that had")
        finally:
            program.close()
            log.unlink()
        return []

    def mend(self) -> None:
        """Starts, continues and connects whatever a test has left otherwise."""
        for container in self._mine("ps"):
            [found] = json.loads(docker("inspect", container))
            if found["State"]["Paused"]:
                docker("unpause", container)
            if found["State"]["Status"] == "exited":
                docker("start", container)
            if found["HostConfig"]["NetworkMode"] != "none" and not found["NetworkSettings"]["Networks"]:
                docker("network", "connect", self.network(), container)

    def logs(self) -> str:
        """What all containers and programs wrote last: not so much that it hides the rest."""
        try:
            parts = [self._compose("logs", "--no-color", "--timestamps", "--tail", "30")]
        except DockerError as error:
            parts = [str(error)]
        for log in sorted(self._folder.glob("*.log")):
            parts += [f"---- {log.stem}", log.read_text(errors="replace").rstrip()]
        return "\n".join(parts)

    def close(self) -> list[str]:
        """Ends and removes everything: what did not go as it should, in words."""
        wrong: list[str] = []
        for program in list(self._programs):
            wrong += self.end(program)
        wrong += self._stopped()
        self._compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        for kind in ("ps --all --quiet", "network ls --quiet", "volume ls --quiet"):
            wrong += [f"left behind ({kind}): {left}" for left in self._mine(kind)]
        shutil.rmtree(self._folder)
        return wrong

    def _stopped(self) -> list[str]:
        """Stops all containers. Those that can be asked to have to end in order."""
        self._compose("stop", "--timeout", "10")
        wrong = []
        for container in self._mine("ps"):
            [found] = json.loads(docker("inspect", container))
            if found["Config"].get("StopSignal") != "SIGKILL" and found["State"]["ExitCode"] != 0:
                wrong.append(f"{found['Name'].removeprefix('/')} ended with {found['State']['ExitCode']}")
        if "Traceback" in self._compose("logs", "--no-color"):
            wrong.append("there is a traceback in the logs")
        return wrong

    def _mine(self, kind: str, *arguments: str) -> list[str]:
        """The words that listing those of this project prints."""
        command = "ps --all --quiet" if kind == "ps" else kind
        mark = f"label=com.docker.compose.project={self.project}"
        return docker(*command.split(), "--filter", mark, *arguments).split()

    def _compose(self, verb: str, *arguments: str) -> str:
        # What is started by its name needs no profile; whatever lists or ends must not overlook it.
        profiles = {} if verb == "up" else {"COMPOSE_PROFILES": PROFILES}
        return run(*self._command, verb, *arguments, environment=self._environment | profiles)
