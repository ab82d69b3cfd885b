"""Builds and starts the images' file trees without Docker: reads the same Dockerfiles, and carries out their steps.

    trees.py build Dockerfile --context DIR --output DIR [--build-arg N=V] [--build-context NAME=DIR] [--image NAME=DIR]
    trees.py run [--mount HOST=INSIDE] [--tmpfs INSIDE] [--env N=V] [--entrypoint PROGRAM] DIR [ARGUMENT...]

A tree is what its steps put over a base: an overlay. The bases themselves are not to be had without a registry, so this
machine's own root stands for each of them: it takes Linux, root, and a python3 that the packages of requirements.lock
are made for; and what is wrong with a base is not seen here. `run` starts a tree as Docker
would, as far as a process can tell: its user, its environment, a root that is read-only, mounts, and a /tmp of its own.
The network is the machine's.

What of a Dockerfile is not understood ends the build: nothing is left out in silence.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

#: Of the machine: whoever starts a tree names the rest.
PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Instructions that say something to readers of an image, and nothing to whoever starts it.
SILENT = ("LABEL", "EXPOSE", "STOPSIGNAL", "VOLUME")


@dataclass(frozen=True, kw_only=True)
class Image:
    """What an image says of itself."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    #: As USER has it: `uid:gid`, or empty for root.
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        (folder / "image.json").write_text(json.dumps({**vars(self), "env": dict(self.env)}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Image:
        found = json.loads((folder / "image.json").read_text())
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


def refuse(problem: str) -> NoReturn:
    """End with a line on what is wrong."""
    sys.exit(f"trees.py: {problem}")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile, such as `("RUN", "pip install ...")`; continued lines are joined."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*#", line)]
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with `$NAME` and `${NAME}` replaced; a name without a value becomes nothing, as with Docker."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)


def words(text: str) -> tuple[str, ...]:
    """Return the words of CMD or ENTRYPOINT, which has to be in the form that needs no shell."""
    if not text.startswith("["):
        refuse(f"{text!r}: a shell in between would swallow signals; write it as a JSON list")
    return tuple(json.loads(text))


class Build:
    """The stages of one Dockerfile."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._context: Path = options.context.absolute()
        self._output: Path = options.output.absolute()
        self._given = dict(pair.split("=", 1) for pair in options.build_arg)
        #: Of directories that stand for a stage, and of trees that stand for a base.
        self._directories = {
            name: Path(path) for name, _, path in (one.partition("=") for one in options.build_context)
        }
        self._trees = {name: Path(path) for name, _, path in (one.partition("=") for one in options.image)}
        self._stages: dict[str, Image] = {}
        self._outer: dict[str, str] = {}

    def build(self, dockerfile: Path, target: str | None) -> str:
        """Build the stages that the target needs, by default the last; returns the target's name."""
        stages: dict[str, list[tuple[str, str]]] = {}
        for name, rest in instructions(dockerfile.read_text(encoding="utf-8")):
            if name == "FROM":
                stages[re.split(r"\s+AS\s+", rest, flags=re.IGNORECASE)[-1]] = [(name, rest)]
            elif stages:
                next(reversed(stages.values())).append((name, rest))
            elif name == "ARG":
                self._outer |= self._argument(rest, {})
            else:
                refuse(f"{name} stands before FROM")
        wanted = target or next(reversed(stages))
        needed = self._needed(stages, wanted)
        for stage, steps in stages.items():
            if stage in needed and stage not in self._directories:
                self._stages[stage] = self._build_stage(stage, steps)
        return wanted

    def _needed(self, stages: Mapping[str, Sequence[tuple[str, str]]], wanted: str) -> set[str]:
        if wanted in self._directories:
            return set()
        found = {wanted}
        for _, rest in stages[wanted]:
            for other in stages:
                if re.search(rf"(?:^|--from=){re.escape(other)}(?=\s|$)", rest) and other != wanted:
                    found |= self._needed(stages, other) | {other}
        return found

    def _argument(self, rest: str, values: Mapping[str, str]) -> dict[str, str]:
        name, _, default = rest.partition("=")
        default = filled("".join(shlex.split(default)), values)
        return {name: self._given.get(name, default or self._outer.get(name, ""))}

    def _build_stage(self, stage: str, steps: Sequence[tuple[str, str]]) -> Image:
        base = filled(re.split(r"\s+AS\s+", steps[0][1], flags=re.IGNORECASE)[0], self._outer)
        folder = self._output / stage
        for name in ("files", "work", "merged"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # One folder over the machine's root, and not several: an overlay takes no two of which one is in the other.
        below = self._output / base if base in self._stages else self._trees.get(base)
        image = Image()
        if below is not None:
            image = Image.load(below)
            subprocess.run(["cp", "-a", f"{below}/files/.", f"{folder}/files"], check=True)
        arguments: dict[str, str] = {}
        for name, rest in steps[1:]:
            print(f"{stage}: {name} {rest}"[:160], file=sys.stderr, flush=True)
            values = {**arguments, **image.env}
            if name == "ARG":
                arguments |= self._argument(rest, values)
            elif name == "ENV":
                pairs = (pair.split("=", 1) for pair in shlex.split(rest))
                image = replace(image, env={**image.env, **{key: filled(value, values) for key, value in pairs}})
            elif name == "WORKDIR":
                image = replace(image, workdir=str(Path(image.workdir) / filled(rest, values)))
                (folder / "files" / image.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif name == "USER":
                image = replace(image, user=filled(rest, values))
            elif name == "RUN":
                self._run(folder, image, values, rest)
            elif name == "COPY":
                self._copy(folder, image, filled(rest, values))
            elif name in ("ENTRYPOINT", "CMD"):
                image = replace(image, **{"entrypoint" if name == "ENTRYPOINT" else "command": words(rest)})
            elif name == "HEALTHCHECK":
                image = replace(image, healthcheck=words(rest.partition("CMD ")[2]))
            elif name not in SILENT:
                refuse(f"{name} is not known here")
        image.save(folder)
        return image

    def _run(self, folder: Path, image: Image, values: Mapping[str, str], command: str) -> None:
        if command.startswith(("--", "[", "<<")) or image.user not in ("", "root"):
            refuse(f"RUN {command[:40]!r}: options, lists, here documents and other users than root are not known here")
        environment = {"PATH": PLAIN_PATH, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **values}
        # The machine's own way to its package index; an image has its base's.
        passed = {name: value for name, value in os.environ.items() if name.lower().startswith(("pip_", "http"))}
        script = [*mounts(folder, "rw"), f"cd {shlex.quote(str(folder / 'merged'))}"]
        inside = f"cd {shlex.quote(image.workdir)} && {command}"
        script += [f"exec chroot . /bin/sh -c {shlex.quote(inside)}"]
        subprocess.run(private("\n".join(script)), env={**passed, **environment}, check=True)

    def _copy(self, folder: Path, image: Image, rest: str) -> None:
        options = dict(re.findall(r"--(\w+)=(\S+)", rest))
        *sources, target = re.sub(r"--\w+=\S+", "", rest).split()
        if unknown := options.keys() - {"from", "chmod"}:
            refuse(f"COPY --{', --'.join(sorted(unknown))} is not known here")
        root = self._source(options.get("from"))
        place = folder / "files" / (Path(image.workdir) / target).as_posix().lstrip("/")
        for source in sources:
            path = root / source.strip("/")
            if path.is_dir():
                shutil.copytree(
                    path,
                    place,
                    symlinks=True,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__") if options.get("from") is None else None,
                )
                continue
            to = place / path.name if target.endswith("/") or target == "." or place.is_dir() else place
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)
            if "chmod" in options:
                to.chmod(int(options["chmod"], 8))

    def _source(self, stage: str | None) -> Path:
        if stage is None:
            return self._context
        if stage in self._directories:
            return self._directories[stage]
        if stage not in self._stages:
            refuse(f"COPY --from={stage}: there is no such stage")
        # What the stage has put over its base; nobody copies from a base here.
        return self._output / stage / "files"


def mounts(folder: Path, mode: str) -> list[str]:
    """Return shell commands that mount an image's files over this machine's root, at `merged` in its folder.

    Parameters:
      mode: `rw` for a step that changes them; `ro`, which any number of processes may have at once, although the kernel
        notes in its log that they share one folder.
    """
    layers = f"lowerdir=/,upperdir={folder / 'files'},workdir={folder / 'work'}"
    place = folder / "merged"
    where = shlex.quote(str(place))
    return [
        f"mount -t overlay overlay -o {mode},{shlex.quote(layers)} {where}",
        f"mount --rbind /dev {where}/dev",
        f"mount -t proc proc {where}/proc",
        f"mount -t tmpfs -o mode=1777 tmpfs {where}/tmp",
        # How names are found is the machine's.
        f"for f in /etc/resolv.conf /etc/hosts; do mount --bind $f {where}$f; done",
    ]


def private(script: str) -> list[str]:
    """Return a command that runs a script where its mounts are seen by nobody else, and end with it."""
    return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", script]


def run(options: argparse.Namespace) -> NoReturn:
    """Become the process that an image starts."""
    folder: Path = options.tree.absolute()
    image = Image.load(folder)
    place = folder / "merged"
    script = mounts(folder, "ro")
    # Mount points that an image does not bring: the root is read-only, so that Docker would refuse them as well.
    for pair in options.mount:
        source, _, inside = pair.rpartition("=")
        script.append(f"mount --bind {shlex.quote(source)} {shlex.quote(f'{place}{inside}')}")
    uid, _, gid = (image.user or "0:0").partition(":")
    for inside in options.tmpfs:
        script.append(f"mount -t tmpfs -o uid={uid},gid={gid},mode=0700 tmpfs {shlex.quote(f'{place}{inside}')}")
    environment = {"PATH": PLAIN_PATH, **image.env, **dict(pair.split("=", 1) for pair in options.env)}
    entrypoint = (options.entrypoint,) if options.entrypoint else image.entrypoint
    command = [*entrypoint, *(options.arguments or ([] if options.entrypoint else image.command))]
    drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    inside = f'cd {shlex.quote(image.workdir)} && exec "$@"'
    start = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), "/bin/sh", "-c", inside, "sh"]
    script.append(f"exec chroot {shlex.quote(str(place))} {shlex.join([*drop, *start, *command])}")
    with contextlib.suppress(OSError):
        os.execvp("unshare", private("\n".join(script)))
    refuse("there is no unshare (util-linux)")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("build", help="carry out the steps of a Dockerfile")
    one.add_argument("dockerfile", type=Path)
    one.add_argument("--context", type=Path, default=Path())
    one.add_argument("--output", type=Path, required=True)
    one.add_argument("--target")
    for name in ("--build-arg", "--build-context", "--image"):
        one.add_argument(name, action="append", default=[], metavar="NAME=VALUE")
    one.set_defaults(act=lambda options: print(Build(options).build(options.dockerfile, options.target)))
    two = verbs.add_parser("run", help="start what was built")
    two.add_argument("tree", type=Path)
    for name in ("--mount", "--tmpfs", "--env"):
        two.add_argument(name, action="append", default=[])
    two.add_argument("--entrypoint")
    two.add_argument("arguments", nargs=argparse.REMAINDER)
    two.set_defaults(act=run)
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        refuse("mounts need root")
    options.act(options)


if __name__ == "__main__":
    main(sys.argv[1:])
