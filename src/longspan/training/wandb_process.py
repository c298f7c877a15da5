"""The W&B side of a run: a program of its own that `wandb_logger.RemoteRun` feeds.

wandb starts a service process, replaces `sys.exit` and `sys.excepthook`, interrupts the main
thread when somebody presses Stop on the web page, and waits for its server in exit hooks that no
setting bounds (0.31: ten seconds after a failed connection, whatever `finish_timeout` says). Here
none of that can reach the training, and a process can be killed where a thread cannot. The other
way round, the run of a training that is killed is finished from here when the pipe closes.

Run by its path and importing nothing but the standard library and wandb, it is ready in a second.
Standard input carries the options, then the calls, a JSON object a line; standard output one line
for each thing the user should know. What wandb prints goes to standard error, which is a log file.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn

GLOBAL_STEP = "trainer/global_step"  # the x axis, named as Lightning's WandbLogger names it
REPORTED = 3  # exit code: it went wrong, and the training has been told
KILLED = 1  # the run's exit code when the training went away without a word

Report = Callable[[str], None]


def main() -> None:
    """Start the run, make the calls, finish the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent by the web page's Stop button
    for told_to_the_training in (signal.SIGTERM, signal.SIGUSR1):  # which then ends the run
        signal.signal(told_to_the_training, signal.SIG_IGN)
    report = _open_reports()
    options = json.loads(sys.stdin.readline())
    limits = (options["training_pid"], options["timeout_seconds"])
    threading.Thread(target=_outlive, args=limits, daemon=True).start()
    try:
        run = _start_run(options, report)
    except Exception as error:
        _fail(report, "W&B tracking is off for this run", error)
    exit_code = _make_calls(sys.stdin, run, report)
    try:
        run.finish(exit_code)
    except Exception as error:
        _fail(report, "W&B has not taken everything, `wandb sync` may upload the rest", error)


def _outlive(training_pid: int, seconds: float) -> None:
    """End this process that long after the training's, which can no longer kill it."""
    while os.getppid() == training_pid:
        time.sleep(1)
    time.sleep(seconds)
    os._exit(KILLED)


def _fail(report: Report, what: str, error: Exception) -> NoReturn:
    traceback.print_exc()
    report(f"{what}: {type(error).__name__}: {error}")
    # Not sys.exit: wandb's exit hooks would wait for the server that has just failed.
    os._exit(REPORTED)


def _open_reports() -> Report:
    """Keep standard output for reports and send what others print there to the log."""
    reports = os.dup(1)
    os.dup2(2, 1)

    def report(text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the training is gone
            os.write(reports, (" ".join(text.split()) + "\n").encode())

    return report


def _start_run(options: dict[str, Any], report: Report) -> Any:
    import wandb

    timeout = options["timeout_seconds"]
    settings = {
        "silent": True,
        "console": "off",
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "host": "",  # the machine's name
        "init_timeout": timeout,
        # Less than the training waits: a run that gives up is written to disk for `wandb sync`,
        # one that is killed is not.
        "finish_timeout": 0.8 * timeout,
        "finish_timeout_raises": True,
        # System metrics of the training, not of this process.
        "x_stats_pid": options["training_pid"],
    }
    known = {name: settings[name] for name in settings if name in wandb.Settings.model_fields}
    run = wandb.init(
        **options["run"],
        mode=_choose_mode(options["mode"], report),
        resume="allow",
        settings=wandb.Settings(**known),
    )
    run.define_metric(GLOBAL_STEP)
    run.define_metric("*", step_metric=GLOBAL_STEP, step_sync=True)
    return run


def _choose_mode(mode: str, report: Report) -> Literal["online", "offline"]:
    """Online where a key is configured and the server takes it, offline otherwise.

    WANDB_MODE overrules the configuration. The server is asked before the run is started, because
    after a failed `wandb.init` the same run cannot be started offline: its id is taken.
    """
    import wandb
    from wandb.errors import UsageError

    mode = os.environ.get("WANDB_MODE") or mode
    if mode in ("offline", "dryrun"):
        return "offline"
    try:
        # Looks for a key wherever wandb does, and cannot ask for one: there is no terminal here.
        if wandb.login(verify=True):
            return "online"
        problem = "wandb is set to offline"
    except UsageError as error:
        if mode == "auto":
            return "offline"
        problem = str(error)
    except Exception as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
    report(f"W&B records offline, `wandb sync` can upload it later: {problem}")
    return "offline"


def _make_calls(lines: Iterable[str], run: Any, report: Report) -> int:
    """Make the calls that come in, until "finish" or the end of the pipe.

    Returns:
        The exit code to finish the run with.
    """
    reported = False
    for line in lines:
        try:
            message = json.loads(line)
            call, values = message["call"], message["values"]
            if call == "finish":
                return values["exit_code"]
            _call(run, call, values)
        except Exception as error:
            traceback.print_exc()
            if not reported:
                report(f"W&B missed a record, and maybe others: {type(error).__name__}: {error}")
            reported = True
    return KILLED


def _call(run: Any, call: str, values: dict[str, Any]) -> None:
    if call == "log":
        run.log(values)
    elif call == "log_images":
        import wandb

        paths = values.pop("paths")
        run.log(values | {key: [wandb.Image(path) for path in paths[key]] for key in paths})
    elif call == "log_files":
        import wandb

        artifact = wandb.Artifact(values["name"], values["type"])
        for path in values["paths"]:
            artifact.add_file(path)
        run.log_artifact(artifact)
    else:
        assert call == "update_config", call
        run.config.update(values, allow_val_change=True)


if __name__ == "__main__":
    main()
