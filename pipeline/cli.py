"""The command line: ``shapetune launch``, ``train``, ``status``, ``serve``, ``report``, ``explain`` and the others."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

# Set before the tokenizers are imported: they warn about every fork that Ray makes.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.markup import escape

from pipeline.runtime.console import open_console, replace_unshowable
from pipeline.runtime.signals import Interrupted, interruptible
from shaping.errors import ConfigError, ShapetuneError
from shaping.printable import printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds where a response's reward should fall, and proves that its total never changes.",
)
# Of several processes that train one policy, the first one speaks.
console = open_console(quiet=os.environ.get("RANK", "0") != "0")
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")]


def _print_version(asked: bool) -> None:
    if asked:
        console.print(f"shapetune {version('shapetune')}")
        raise typer.Exit


@app.callback()
def options(
    shown: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Finds where a response's reward should fall, and proves that its total never changes."""


@app.command()
def launch(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a built-in config's name.")],
    changes: Annotated[list[str], typer.Option("--set", help="Change a value: --set ppo.steps=10.")] = [],  # noqa: B006
    studies: Annotated[Path, typer.Option(help="The folder that studies are kept in.")] = Path("studies"),
) -> None:
    """Start a study, or resume it where it stopped; exit code 1 when nothing of it succeeded."""
    from pipeline.config.load import find_config, load_config
    from pipeline.runtime.logging import quiet_libraries
    from pipeline.study.examined import examined

    with quiet_libraries():  # Ax announces its database as soon as it is imported; a space of one's own may import it
        # Before torch and Ax are loaded, which takes seconds: what is wrong with a config is said at once.
        asked = examined(load_config(find_config(config), tuple(changes)), studies)
        from pipeline.commands.launch import launch_study
        from pipeline.commands.summary import came_to_nothing

    if came_to_nothing(launch_study(asked, console)):
        raise typer.Exit(1)


@app.command()
def submit(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a built-in config's name.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard: http://HEAD:8265.")],
    studies: Annotated[Path, typer.Option(help="The folder that studies are kept in, on storage all nodes share.")],
    changes: Annotated[list[str], typer.Option("--set", help="Change a value: --set ppo.steps=10.")] = [],  # noqa: B006
    requirements: Annotated[Path | None, typer.Option(help="What pip installs on the nodes first.")] = None,
    variables: Annotated[list[str], typer.Option("--env", help="A variable that the job needs, by name.")] = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow", help="Print what the job prints, until it ends.")] = False,
) -> None:
    """Launch a study as a job of a Ray cluster, or resume it."""
    from pipeline.runtime.logging import quiet_libraries

    with quiet_libraries():
        from pipeline.commands.submit import submit_study

    code = submit_study(config, tuple(changes), address, studies, requirements, tuple(variables), follow, console)
    raise typer.Exit(code)


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a built-in config's name.")],
    changes: Annotated[list[str], typer.Option("--set", help="Change a value: --set ppo.steps=10.")] = [],  # noqa: B006
    shape: Annotated[Path | None, typer.Option(help="An exported shape.json.")] = None,
    weights: Annotated[list[str], typer.Option("--weight", help="METHOD=SHARE, again for each method.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")] = Path("run"),
    accept_reward_model: Annotated[
        str | None, typer.Option(help="The name of the config's reward model, where the shape was tuned for another.")
    ] = None,
) -> None:
    """Train one policy with one shape, without a study."""
    from pipeline.config.load import find_config, load_config
    from pipeline.runtime.logging import quiet_libraries

    with quiet_libraries():  # a space of one's own may import Ax
        settings = load_config(find_config(config), tuple(changes))
        from pipeline.commands.train import RUN_FILE, TrainingRun, chosen_shape, show_result, with_settings_of
        from pipeline.commands.train import train as train_policy
        from pipeline.study.prompt_day import with_day_of_run
        from pipeline.trials.task_models import build_assets, open_task

        settings = with_day_of_run(settings, output / RUN_FILE)
        settings = with_settings_of(settings, shape, changes, console)
    task = open_task(settings, build_assets(settings, console), console)
    chosen = chosen_shape(settings, shape, tuple(weights), task.reward_model, accept_reward_model)
    run = TrainingRun(settings, chosen, seed, output)
    show_result(run, train_policy(run, task, console), console)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Its folder; with --storage, its name.")] = None,
    storage: Annotated[str | None, typer.Option(help="A database's address: reads it in place of a folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    again: Annotated[bool, typer.Option("--watch", help="Redraw until the study ends.")] = False,
) -> None:
    """Show a study's trials, its best arm so far and what is running; of a database alone, its studies."""
    from pipeline.commands.status import show

    if as_json and as_csv:
        raise ConfigError("--json and --csv cannot be had together", "leave one of them out")
    form = "json" if as_json else "csv" if as_csv else "table"
    show(study, storage, form, again, console)


@app.command()
def report(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY…", help="The study's folder; several are compared.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The HTML file to write.")] = None,
    with_ax: Annotated[bool, typer.Option("--ax/--no-ax", help="With Ax's own analyses, or without.")] = True,
) -> None:
    """Write the HTML report of a study, or of several side by side (comparison.html)."""
    from pipeline.runtime.logging import quiet_libraries
    from pipeline.study.folder import StudyFolder

    # Before anything heavy is imported: what is not there is said at once.
    folders = [StudyFolder.existing(study) for study in studies]
    with quiet_libraries():  # Ax announces its database as soon as it is imported
        from pipeline.report.comparison import load_comparison
        from pipeline.report.load import load_report_data
        from pipeline.report.page import write_page, write_report
        from pipeline.report.pages import render_comparison

        if len(studies) > 1:
            written = write_page(
                render_comparison(load_comparison(studies)), output or Path("comparison.html"), "report"
            )
        else:
            data = load_report_data(folders[0], modelled=True, with_ax=with_ax)
            written = write_report(data, output or folders[0].report_file)
    console.print(f"report  {escape(str(written))}")


@app.command()
def explain(
    subject: Annotated[
        str, typer.Argument(metavar="STUDY|SHAPE|CONFIG", help="A study's folder, an exported shape.json, or a config.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option(help="What was asked; where the task's prompts are chats, what their user says."),
    ] = None,
    response: Annotated[
        str | None, typer.Option(help="What was answered, word for word; read with the policy's tokenizer.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="In place of both: JSON lines, each with prompt (or messages) and response.")
    ] = None,
    methods: Annotated[list[str], typer.Option("--method", help="A credit method, again for each; or all.")] = [],  # noqa: B006
    shapes: Annotated[
        list[Path], typer.Option("--shape", help="Another shape.json, or the study that exported it; again for each.")
    ] = [],  # noqa: B006
    config: Annotated[
        str | None, typer.Option(help="Of a shape.json: the config or study whose reward model scores the text.")
    ] = None,
    changes: Annotated[list[str], typer.Option("--set", help="Change a value: --set shape.unit=token.")] = [],  # noqa: B006
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Do not put the token that ends a response after it.")
    ] = False,
    numbers: Annotated[bool, typer.Option("--numbers", help="Print every token's reward, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file instead.")] = None,
) -> None:
    """Show where the reward falls in a text: token credits under methods and shapes, row under row.

    Without a text, a study's own responses on held-out prompts are shown. Without --method and --shape, the rows are
    a study's winner, or a shape, and the methods that it is made of; of a config, the methods of its space.
    """
    from pipeline.runtime.logging import quiet_libraries

    if as_json and html is not None:
        raise ConfigError("--json and --html were both given", "give one of them")
    with quiet_libraries():  # Ax announces its database as soon as it is imported
        from pipeline.explain.question import checked_question

        words = (prompt, response, file, tuple(methods), tuple(shapes), config, tuple(changes), unfinished)
        asked = checked_question(subject, *words)
        from pipeline.commands.explain import show_explanation
        from pipeline.explain.explain import explain as find_credits
        from pipeline.report.pages import write_explanation

        # What is said while models are built or loaded is no part of the answer.
        found = find_credits(asked, open_console(stderr=True))
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    elif html is not None:
        console.print(f"page    {escape(printable(str(write_explanation(found, html))))}")
    else:
        show_explanation(found, console, numbers)


@app.command()
def serve(
    target: Annotated[
        str, typer.Argument(metavar="STUDIES", help="A study's folder, a folder of studies, or a database's address.")
    ] = "studies",
    host: Annotated[str, typer.Option(help="What to listen on; all who reach it can read the studies.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8410,
) -> None:
    """Show studies in a browser while they run: read-only, until Ctrl+C."""
    from pipeline.serve.server import serve as serve_studies

    serve_studies(target, host, port, console)


@app.command()
def export(
    study: StudyArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The folder to write into.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="shape, with a trainer's module: verl, skyrl, trl or slime, or ax: the search for Ax's own client.",
        ),
    ] = "shape",
) -> None:
    """Write the best shape, for your own loop or for a production trainer."""
    from pipeline.export.formats import AX, check_format
    from pipeline.runtime.logging import quiet_libraries
    from pipeline.study.folder import StudyFolder

    check_format(form)
    folder = StudyFolder.existing(study)
    with quiet_libraries():
        from pipeline.export.export import export_winner

        target = output or folder.export
        if form == AX:
            from pipeline.export.ax import export_search

            written = export_search(folder, target)
        else:
            written = export_winner(folder, target, form)
    for place, path in enumerate(written.paths):
        what = "shape" if place == 0 and form != AX else form
        console.print(f"{what[:7]:<7} {escape(printable(str(path)))}")
    for note in written.notes:
        console.print(f"note    {escape(printable(note))}")


@app.command()
def doctor(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="With --gpu-memory: whether its runs fit, and their cost.")
    ] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=1, help="GiB of a GPU, or of a run's share of one.")] = None,
    changes: Annotated[list[str], typer.Option("--set", help="Change a value: --set ppo.steps=10.")] = [],  # noqa: B006
    studies: Annotated[Path, typer.Option(help="The folder that studies are kept in.")] = Path("studies"),
) -> None:
    """Show what this machine has and lacks, or whether a config's runs fit into a GPU.

    Exit code 1 when something is missing, 2 when they do not fit.
    """
    if (config is None) != (gpu_memory is None):
        raise ConfigError(
            "doctor wants CONFIG and --gpu-memory together", "shapetune doctor my_study.yaml --gpu-memory 80"
        )
    if config is not None and gpu_memory is not None:
        from pipeline.config.load import find_config, load_config
        from pipeline.runtime.logging import quiet_libraries

        with quiet_libraries():
            settings = load_config(find_config(config), tuple(changes))
            from pipeline.commands.gpu_memory import show_fit

        show_fit(settings, gpu_memory, console)
        return
    from pipeline.commands.doctor import examine

    findings = examine(studies)
    for finding in findings:
        mark = "[green]ok[/]     " if finding.good else "[red]missing[/]"
        remedy = "" if finding.good else f": {finding.remedy}"
        console.print(f"{mark} {finding.name:<13} {finding.found}{remedy}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; errors that a user can act on end with exit code 2 and no traceback."""
    replace_unshowable(sys.stdout, sys.stderr)
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        with interruptible():
            result: Any = app(args=arguments, standalone_mode=False)
    except ShapetuneError as error:
        return _refuse(error.message, error.hint)
    except typer.Exit as exit_request:
        return exit_request.exit_code
    except Interrupted as stop:
        _refuse(stop.message, stop.hint)
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _refuse("stopped", "")
        return 130
    except UnicodeEncodeError as error:
        if error.encoding.lower().startswith("utf"):
            raise
        # Names of files, in a locale that knows a few characters only.
        return _refuse(f"{error.object!r} cannot be said in {error.encoding}", "set PYTHONUTF8=1")
    except OSError as error:
        return _refuse(f"{error.filename or 'file'}: {error.strerror or error}", "nothing that was finished is lost")
    except Exception as error:
        # Errors of the command line itself; their class lives in a package that typer may vendor.
        if hasattr(error, "format_message"):
            return _refuse(error.format_message(), "shapetune --help shows the commands")
        raise
    return result if isinstance(result, int) else 0


def _refuse(message: str, hint: str) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"       {printable(hint)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
