"""`rayqueue` as a user types it: in this process where the answer alone matters, or in a shell with real pipes."""

import os
import subprocess
import sys

from click.testing import CliRunner

import rayqueue
from rayqueue.cli.main import cli

TIMEOUT_S = 60


def environment(cluster, **more):
    """The environment of a process that finds this checkout and the cluster."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(rayqueue.__file__)))
    return {**os.environ, "RAYQUEUE_BOOTSTRAP": cluster.bootstrap_servers, "PYTHONPATH": root, **more}


def runner(cluster):
    """Runs a command in this process; gives the result."""

    def invoke(*arguments, status=0, **options):
        result = CliRunner().invoke(cli, arguments, env={"RAYQUEUE_BOOTSTRAP": cluster.bootstrap_servers}, **options)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.stderr
        return result

    return invoke


def shell_in(cluster, directory):
    """Runs a shell line in which `rayqueue` is the command; gives the finished process."""
    command = directory / "bin" / "rayqueue"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rayqueue "$@"\n')
    command.chmod(0o755)

    def invoke(line, status=0):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env=environment(cluster, PATH=f"{command.parent}:{os.environ['PATH']}"),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return invoke


def topic_for(request, admin):
    """A topic of two partitions, called as the test; a generator, for a fixture."""
    name = request.node.name.split("[")[0]
    admin.create_topic(name, partitions=2)
    yield name
    if name in admin.list_topics():
        admin.delete_topic(name)
