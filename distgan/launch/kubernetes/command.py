"""`python -m distgan.launch k8s`: train on Kubernetes, by the manifests of k8s/ and your own kubectl.

python -m distgan.launch k8s render --config my.yaml --nodes 4 --image registry/distgan:1       look at the manifests
python -m distgan.launch k8s submit --config my.yaml --nodes 4 --image registry/distgan:1       send them; again, after a stop, to go on
python -m distgan.launch k8s status [NAME]          pods, and how the last ones ended
python -m distgan.launch k8s logs NAME              of rank 0, until the run has ended: exit code 0 if it is done, else 1
python -m distgan.launch k8s metrics NAME           where they are
python -m distgan.launch k8s stop NAME              save and end; the volume stays

What is no option of render and submit is a setting of distgan.train.
"""

import argparse
import shlex
import sys
from collections.abc import Callable

from distgan.arguments import ON_SETTINGS
from distgan.launch.kubernetes import changes, scraping, status, submit
from distgan.launch.kubernetes.follow import follow
from distgan.launch.kubernetes.kubectl import Kubectl
from distgan.launch.kubernetes.preparation import Prepared, prepare
from distgan.launch.kubernetes.runs import find, find_all
from distgan.launch.kubernetes.stop import deletions, stop
from distgan.launch.say import say
from distgan.process import EXIT_DONE

_EXIT_INTERRUPTED = 130  # as shells have it, after Ctrl-C


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others', with those of its own commands below it."""
    parser = subparsers.add_parser("k8s", help="on Kubernetes", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (("render", _render, "print the manifests; no cluster is asked"), ("submit", _submit, "send the manifests")):
        sub = _add(commands, name, run, text)
        changes.add_options(sub)
        sub.set_defaults(settings=[])
        sub.epilog = ON_SETTINGS
        if name == "submit":
            sub.add_argument("--dry-run", action="store_true", help="print the manifests and the commands, and contact nobody")
    _add(commands, "status", _status, "of a run, or of all").add_argument("name", nargs="?", metavar="NAME")
    logs = _add(commands, "logs", _logs, "follow the log of rank 0 until the run has ended")
    logs.add_argument("name", metavar="NAME")
    logs.add_argument("--index", type=int, default=0, metavar="K", help="of another node (default: 0)")
    _add(commands, "metrics", _metrics, "where they are").add_argument("name", metavar="NAME")
    stop_parser = _add(commands, "stop", _stop, "save, end, and remove all but the volume")
    stop_parser.add_argument("name", metavar="NAME")
    stop_parser.add_argument("--dry-run", action="store_true", help="print the commands, and contact nobody")


def _add(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace, Kubectl], int], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--namespace", metavar="NAME", help="of the cluster (default: your kubeconfig's)")
    parser.add_argument("--context", metavar="NAME", help="of your kubeconfig (default: the current one)")
    parser.set_defaults(run=lambda options: _interruptible(run, options))
    return parser


def _interruptible(run: Callable[[argparse.Namespace, Kubectl], int], options: argparse.Namespace) -> int:
    try:
        return run(options, Kubectl(options.context, options.namespace))
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _prepared(options: argparse.Namespace) -> Prepared:
    prepared = prepare(options)
    for warning in prepared.warnings:
        say(f"Warning: {warning}")
    return prepared


def _render(options: argparse.Namespace, kubectl: Kubectl) -> int:
    sys.stdout.write(_prepared(options).rendering.text)
    return EXIT_DONE


def _submit(options: argparse.Namespace, kubectl: Kubectl) -> int:
    prepared = _prepared(options)
    kubectl = Kubectl(kubectl.context, prepared.rendering.job["metadata"].get("namespace", kubectl.namespace))
    if options.dry_run:
        sys.stdout.write(prepared.rendering.text)
        say("\n".join(["This would be sent by:", *submit.commands(prepared, kubectl)]))
        return EXIT_DONE
    say(prepared.describe())
    print(submit.submit(prepared, kubectl), end="")
    where = [word for name in ("context", "namespace") if (value := getattr(kubectl, name)) for word in (f"--{name}", value)]
    say("Now, for its log, its pods, its metrics, and to stop it:")
    for command in ("logs", "status", "metrics", "stop"):
        say(f"  python -m distgan.launch k8s {shlex.join([command, prepared.name, *where])}")
    return EXIT_DONE


def _status(options: argparse.Namespace, kubectl: Kubectl) -> int:
    found = [find(kubectl, options.name)] if options.name else find_all(kubectl)
    if not found:
        say("There are no runs in this namespace.")
    for run in found:
        print(status.describe(run))
    return EXIT_DONE


def _logs(options: argparse.Namespace, kubectl: Kubectl) -> int:
    return follow(kubectl, options.name, options.index)


def _metrics(options: argparse.Namespace, kubectl: Kubectl) -> int:
    print(scraping.describe(find(kubectl, options.name), kubectl))
    return EXIT_DONE


def _stop(options: argparse.Namespace, kubectl: Kubectl) -> int:
    if options.dry_run:
        print("\n".join(kubectl.shown(*words) for words in deletions(options.name)))
        return EXIT_DONE
    stop(find(kubectl, options.name), kubectl)
    return EXIT_DONE
