"""The command ``rsp-robot``: a table of verbs, each a frozen dataclass config and a function of it.

A verb's modules are imported when it is chosen, never before: ``rsp-robot --help`` needs neither torch nor a simulator.
What a verb made is the last line of stdout; progress and messages go to stderr.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import rsp_robot
from rsp_robot.errors import Preempted, UserError, unknown_name

DESCRIPTION = "Pretrain a visual encoder on demonstration videos, freeze it, and measure what it is worth to a policy."
USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143


@dataclass(frozen=True)
class Verb:
    """One verb of the command line."""

    config: str
    """``module:attribute`` of the config dataclass; its docstrings are the help text."""
    run: str
    """``module:attribute`` of the function of that config. An int it returns is the exit status, a path is printed."""
    summary: str
    """One line for the list of verbs."""
    example: str
    """What follows ``rsp-robot`` in an example that works as written."""
    after_interrupt: str = "the same command again continues where it stopped"
    """What to tell a user who pressed Ctrl-C."""
    defaults: str | None = None
    """``module:attribute`` of a function of the options that returns the config they start from; by default the
    dataclass's own defaults."""


VERBS = {
    "quickstart": Verb(
        "rsp_robot.experiments.quickstart:QuickstartConfig",
        "rsp_robot.experiments.quickstart:quickstart",
        "The whole line on one machine: demonstrations, RSP, policies, evaluation, report",
        "quickstart --out runs/quickstart",
    ),
    "tasks": Verb(
        "rsp_robot.experiments.verbs.tasks:TasksCommand",
        "rsp_robot.experiments.verbs.tasks:run_tasks_verb",
        "List the simulated tasks, describe one, or draw them all on a sheet",
        "tasks metaworld/push-v3",
        "nothing was written; run the same command again",
    ),
    "collect": Verb(
        "rsp_robot.experiments.verbs.collect:CollectCommand",
        "rsp_robot.experiments.verbs.collect:run_collection",
        "Record demonstrations of the suites' scripted experts",
        "collect metaworld/push-v3 --demonstrations 100 --out data/push.hdf5",
    ),
    "replay": Verb(
        "rsp_robot.envs.replay:ReplayConfig",
        "rsp_robot.experiments.verbs.replay:run_replay",
        "Check that demonstrations end as they were recorded, and film one",
        "replay --data data/push.hdf5",
        "nothing was written; run the same command again",
    ),
    "experts": Verb(
        "rsp_robot.experiments.verbs.experts:ExpertsCommand",
        "rsp_robot.experiments.verbs.experts:run_experts",
        "Measure how often the scripted experts succeed, with intervals",
        "experts metaworld/push-v3 --episodes 50 --out runs/experts.jsonl",
    ),
    "pack": Verb(
        "rsp_robot.experiments.verbs.pack:PackCommand",
        "rsp_robot.experiments.verbs.pack:pack",
        "Decode videos once, into a folder of frames that training reads without decoding",
        "pack --data data/push.hdf5 --out data/push-frames --short-side 96",
    ),
    "corpus": Verb(
        "rsp_robot.experiments.verbs.corpus:CorpusCommand",
        "rsp_robot.experiments.verbs.corpus:run_corpus",
        "Collect and pack the demonstrations of many tasks by a recipe, to pretrain on",
        "corpus tabletop --quick --out data/tabletop-quick",
    ),
    "pretrain": Verb(
        "rsp_robot.experiments.verbs.pretrain:PretrainCommand",
        "rsp_robot.experiments.verbs.pretrain:run_pretraining",
        "Pretrain an encoder on videos and export it frozen",
        "pretrain --preset rsp-small --data data/push.hdf5 --out runs/rsp-push",
        "the same command with --resume continues from the last checkpoint",
        "rsp_robot.experiments.verbs.pretrain:default_command",
    ),
    "imagine": Verb(
        "rsp_robot.pretrain.imagine:ImagineConfig",
        "rsp_robot.pretrain.imagine:imagine",
        "Draw the futures that a pretrained RSP or SRVP model imagines",
        "imagine --run runs/rsp-push --data data/push.hdf5",
        "nothing was written; run the same command again",
    ),
    "digits": Verb(
        "rsp_robot.experiments.digits.experiment:DigitsConfig",
        "rsp_robot.experiments.verbs.digits:run_digits",
        "Judge objectives on moving digits: which way it went, what comes next, how fast, how many features",
        "digits --quick --out runs/digits",
    ),
    "bc": Verb(
        "rsp_robot.experiments.verbs.bc:BCCommand",
        "rsp_robot.experiments.verbs.bc:bc",
        "Train a policy by behaviour cloning, on a frozen encoder or without one",
        "bc --data data/push.hdf5 --encoder runs/rsp-push --out runs/bc-rsp",
    ),
    "rl": Verb(
        "rsp_robot.experiments.verbs.rl:RLCommand",
        "rsp_robot.experiments.verbs.rl:rl",
        "Train a policy by reinforcement learning on a frozen encoder, then measure and film it",
        "rl metaworld/reach-v3 --algorithm sac --encoder runs/rsp-push --action-repeat 5 --out runs/sac",
    ),
    "evaluate": Verb(
        "rsp_robot.experiments.verbs.evaluate:EvaluateCommand",
        "rsp_robot.experiments.verbs.evaluate:run_evaluation",
        "Roll policies out on the same held-out starts and compare them",
        "evaluate runs/bc-rsp runs/bc-blind --task metaworld/push-v3 --episodes 50 --out runs/evaluation.jsonl",
    ),
    "suite": Verb(
        "rsp_robot.experiments.verbs.suite:SuiteCommand",
        "rsp_robot.experiments.verbs.suite:run_suite_verb",
        "Run an evaluation protocol by name, from demonstrations to the table of scores",
        "suite run cortexbench-metaworld --encoder rsp=runs/rsp-push none --quick --out runs/cortexbench-quick",
    ),
    "budget": Verb(
        "rsp_robot.experiments.verbs.budget:BudgetCommand",
        "rsp_robot.experiments.verbs.budget:run_budget",
        "Judge a pretraining at every doubling of its steps: how much of it is enough",
        "budget runs/rsp-tabletop --first-step 64 --out runs/rsp-tabletop-budget",
    ),
    "compare": Verb(
        "rsp_robot.experiments.verbs.compare:CompareCommand",
        "rsp_robot.experiments.verbs.compare:run_compare",
        "Put evaluations side by side: intervals over tasks and seeds, paired differences, what is established",
        "compare rsp=runs/seed0.jsonl,runs/seed1.jsonl blind=runs/blind0.jsonl,runs/blind1.jsonl --out runs/table.json",
        "nothing was written; run the same command again",
    ),
    "report": Verb(
        "rsp_robot.experiments.verbs.report:ReportCommand",
        "rsp_robot.experiments.verbs.report:report",
        "Write one page about any runs: success with intervals, films, curves; its numbers as CSV, JSON, LaTeX",
        "report runs/quickstart",
        "nothing was written; run the same command again",
    ),
    "export": Verb(
        "rsp_robot.experiments.verbs.export:ExportCommand",
        "rsp_robot.experiments.verbs.export:export",
        "Write an encoder as a folder of ours, for timm, or as a torch.export or ONNX program",
        "export --encoder runs/rsp-push --out exported/rsp-push --format onnx --frame-size 96",
        "nothing was written; run the same command again",
    ),
    "bench": Verb(
        "rsp_robot.experiments.verbs.bench:BenchCommand",
        "rsp_robot.experiments.verbs.bench:run_bench",
        "Measure on this machine the speed of pretraining, of loading, and of policies on embeddings",
        "bench data --out bench.json",
        "nothing was written; run the same command again",
    ),
    "cache": Verb(
        "rsp_robot.experiments.verbs.cache:CacheCommand",
        "rsp_robot.experiments.verbs.cache:show_cache",
        "List what is kept to save time, embeddings above all, and make room",
        "cache --clear --older-than-days 30",
        "the rest is as it was; run the same command again",
    ),
    "doctor": Verb(
        "rsp_robot.experiments.doctor.checkup:DoctorConfig",
        "rsp_robot.experiments.doctor.checkup:doctor",
        "Say what this machine has, what is missing, and how fast it renders",
        "doctor",
        "nothing was changed; run the same command again",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``rsp-robot`` with ``arguments`` (those of the process by default) and return its exit status.

    0: done; 1: it ran and says no (``doctor``); 2: a mistake in the input, told in one line; 130: interrupted;
    143: ended from outside (SIGTERM), with everything saved.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _run(words)
    except KeyboardInterrupt:
        if debug:
            raise
        verb = VERBS.get(words[0]) if words else None
        _complain(f"interrupted; {verb.after_interrupt if verb else 'run the same command again'}")
        return INTERRUPTED
    except Preempted as leaving:
        _complain(str(leaving))
        return TERMINATED
    except (UserError, OSError) as error:
        line = str(error) if isinstance(error, UserError) else explain_os_error(error)
        if debug or line is None:
            raise
        _complain(f"error: {line}")
        return USER_ERROR


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"rsp-robot {rsp_robot.__version__}")
        return 0
    name, *options = words
    if name not in VERBS:
        kind = "option before the verb" if name.startswith("-") else "verb"
        raise unknown_name(kind, name, ["--help", "--version"] if name.startswith("-") else VERBS)
    made = resolve(VERBS[name].run)(read_options(name, options))
    if isinstance(made, int):
        return made
    if isinstance(made, Path):
        print(made)
    return 0


def read_options(name: str, options: Sequence[str]) -> Any:
    """Return the config that the words after the verb ``name`` describe.

    Raises:
        UserError: they do not fit it.
        SystemExit: ``--help`` was among them, and was printed.
    """
    from rsp_robot.experiments.usage import parse_options

    verb = VERBS[name]
    description = f"{verb.summary}.\n\nExample:\n  rsp-robot {verb.example}"
    default = resolve(verb.defaults)(options) if verb.defaults else None
    return parse_options(resolve(verb.config), options, f"rsp-robot {name}", description, default)


def overview() -> str:
    """Return the text of ``rsp-robot --help``.

    >>> print(overview().splitlines()[0])
    usage: rsp-robot VERB [options]
    """
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"""usage: rsp-robot VERB [options]

{DESCRIPTION}

verbs:
{verbs}

options:
  --debug    show the traceback of an error (anywhere on the line)
  --version  show the version
  --help     show this; after a verb, its options and an example

Start here:
  rsp-robot doctor
  rsp-robot {VERBS["quickstart"].example}"""


def resolve(reference: str) -> Callable[..., Any]:
    """Import what ``module:attribute`` names."""
    module, _, attribute = reference.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


def explain_os_error(error: OSError) -> str | None:
    """Return cause and fix where the operating system refused something a user can mend, else None.

    >>> explain_os_error(OSError(errno.ENOSPC, "No space left on device", "runs/a"))
    'no space left on the disk (runs/a); free some and run the same command again'
    """
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{where}; free some and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"this user may not read or write there{where}; give a place of your own"
    return None


def _complain(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())
