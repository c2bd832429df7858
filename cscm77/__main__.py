"""Run the notebooks from a terminal: python -m cscm77.

Each runs in a fresh kernel of this Python. What its cells print is passed on as they print it; the
executed notebook, the same as HTML and the pictures are written to `results/`, and what was trained
to `results/checkpoints`: a command that was stopped goes on there, and a finished one shows its
results again.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from cscm77.files import free_name, reason_of, write_whole
from cscm77.report.page import page_of
from cscm77.report.paper import write_report
from cscm77.utils import printable_output

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
NOTEBOOKS = {"vae": PACKAGE_FOLDER / "variational_autoencoders.ipynb",
             "gan": PACKAGE_FOLDER / "generative_adversarial_networks.ipynb"}
WIDGET = "application/vnd.jupyter.widget-view+json"  # a page without a kernel has nothing behind it
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")  # what a progress bar leaves of a line
CELL_LINE = re.compile(r"(?:Cell In\s*\[\d+\].*?line:?"  # IPython 8 and newer, then 7
                       r'|ip(?:ykernel_|ython-input-)[^\s"]+"?(?:, line| in (?s:.*?)^-+>))\s*(\d+)',
                       re.MULTILINE)
say_once = cache(print)  # of what may be the same for both notebooks


class ThisPythonKernelManager(AsyncKernelManager):
    """Starts kernels with the Python that runs this command, whatever kernels are registered."""

    kernel_spec = KernelSpec(display_name="Python 3", language="python", argv=[
        sys.executable, "-Xfrozen_modules=off",  # so that the debugger warns of nothing
        "-m", "ipykernel_launcher", "-f", "{connection_file}"])


class TerminalClient(NotebookClient):
    """Executes a notebook, passing on what its cells print, and how long each section took."""

    kernel_manager_class = ThisPythonKernelManager

    def __init__(self, notebook, folder):
        quiet = ["--log-level=CRITICAL"]  # of the kernel's own log, which speaks of its sockets
        super().__init__(notebook, timeout=None, on_cell_execute=self._begin_cell,
                         extra_arguments=quiet, resources={"metadata": {"path": str(folder)}})
        self.cell, self.place = None, "before its first cell"  # then the code cell begun last
        self._section, self._began = None, time.perf_counter()

    def process_message(self, msg, cell, cell_index):
        """Keep an output in the notebook, as the base class does, and show text at once."""
        content = msg["content"]
        if msg["msg_type"] == "stream":
            print(content["text"], end="", flush=True)
        elif {"text/html", "text/markdown"} & content.get("data", {}).keys():  # tables, answers
            print(content["data"]["text/plain"], flush=True)
        return super().process_message(msg, cell, cell_index)

    def end_section(self):
        """Say how long the section took that has run until now."""
        if self._section is not None:
            print(f"   ({self._section}: {time.perf_counter() - self._began:.1f} s)", flush=True)
        self._section, self._began = None, time.perf_counter()

    def _begin_cell(self, cell, cell_index):
        above = self.nb.cells[:cell_index]
        text = "\n".join(c.source for c in above if c.cell_type == "markdown")
        section = ["Start", *re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)][-1]
        number = 1 + sum(c.cell_type == "code" for c in above)
        self.cell, self.place = cell, f'code cell {number} ("{section}")'
        if section != self._section:
            self.end_section()
            self._section = section
            print(f"\n## {section}", flush=True)


def main(arguments=None):
    """Run the command line; returns the exit status."""
    printable_output()
    options = parse(arguments)
    if options.demo:
        return demonstrate(options)
    for path in options.notebooks:
        trained = options.output / "checkpoints" / path.stem
        if (options.fresh or options.update) and trained.exists():
            kept = trained.rename(free_name(trained))
            print(f"Training anew; the earlier checkpoints are kept in {kept}")
        failure = run(path, options.output, images=options.images, update=options.update)
        if failure:
            print(f"\n{failure}", file=sys.stderr)
            return 1
    print(f"\nThe notebooks, their HTML and the pictures are in {options.output}")
    if {*NOTEBOOKS.values()} <= {*options.notebooks}:
        write_report(options.output)  # where it cannot be, this says why
    return 0


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m cscm77", description=__doc__.split("\n\n")[0],
                                     epilog="Without a name, both notebooks run.")
    add = parser.add_argument
    add("notebooks", nargs="*", type=notebook_path, metavar="vae|gan|FILE.ipynb",
        help="the notebook to run")
    add("--images", type=int, metavar="N", help="use only the first N images of each split")
    add("--output", type=Path, default=PACKAGE_FOLDER / "results", metavar="DIR",
        help="where the results go (results/ beside the notebooks)")
    add("--update", action="store_true",
        help="also put the executed notebooks in the notebooks' place")
    add("--fresh", action="store_true",
        help="train anew, and keep earlier checkpoints under another name; --update does so, too")
    add("--demo", action="store_true",
        help="open the notebook in JupyterLab; what an earlier run trained is there at once")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images: expected at least 1, found {options.images}")
    if options.demo and (options.update or options.fresh):
        parser.error("--demo: expected no --update or --fresh beside it, since it runs nothing")
    options.notebooks = options.notebooks or list(NOTEBOOKS.values())
    for path in options.notebooks:
        if options.output.resolve() == path.resolve().parent:
            parser.error(f"--output: expected another folder than that of {path.name}, which would "
                         "be overwritten; --update is the option for that")
    return options


def notebook_path(text):
    """The path of the notebook that a word of the command line means."""
    for path in (NOTEBOOKS.get(text, Path(text)), PACKAGE_FOLDER / text):
        if path.suffix == ".ipynb" and path.is_file():
            return path
    raise argparse.ArgumentTypeError(f"expected vae, gan or the file of a notebook, found {text!r}")


def demonstrate(options):
    """Open JupyterLab on a notebook with the results of `options`; returns its exit status."""
    for path in options.notebooks:
        if not list((options.output / "checkpoints" / path.stem).glob("*/*.pt")):
            print(f"Nothing of {path.name} is trained yet: its cells will do that, "
                  "or python -m cscm77 beforehand.")
    first = options.notebooks[0].resolve()
    environment = kernel_environment(options.output, options.images)
    environment.pop("TQDM_DISABLE", None)
    words = [sys.executable, "-m", "jupyter", "lab", str(first)]
    if getattr(os, "geteuid", lambda: None)() == 0:
        print("You are root here, as in a container: JupyterLab is opened with --allow-root.")
        words.append("--allow-root")
    try:
        return subprocess.call(words, cwd=first.parent, env=environment)
    except KeyboardInterrupt:  # the way to end JupyterLab
        return 130


def run(path, output, *, images=None, update=False):
    """Execute a notebook on `images` of each split, or all, and write what came of it to a folder.

    With `update` it also replaces the one at `path`. Returns None, or, where a cell failed or
    Ctrl-C stopped it, the sentence that says which, at what line and why.
    """
    output.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    client = TerminalClient(notebook, path.resolve().parent)
    print(f"\n# {path.name}", flush=True)
    failure = None
    # at Ctrl-C nbclient may shut a kernel down twice, and asyncio then tells of an error lost
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        client.execute(env=kernel_environment(output, images))
    except (CellExecutionError, DeadKernelError, AssertionError, AttributeError) as error:
        failure = describe_failure(path, output, client, error)
    finally:  # also where passing on what a cell printed has failed
        unwritten = write_executed(notebook, output / path.name)
    client.end_section()
    failure = failure or unwritten
    if update and not failure:
        write_whole(path, (output / path.name).read_bytes())
    return failure


def kernel_environment(output, images):
    """The environment of a kernel: ours, and the settings that notebooks and loaders obey."""
    environment = {**os.environ, "CSCM77_RESULTS": str(output.resolve()),
                   "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    if images:
        environment["CSCM77_IMAGES"] = str(images)
    if os.environ.get("MNIST_DIR"):  # relative to where the command is given, not to the notebook
        environment["MNIST_DIR"] = str(Path(os.environ["MNIST_DIR"]).expanduser().resolve())
    if not sys.stdout.isatty():
        environment["TQDM_DISABLE"] = "1"
    return environment


def describe_failure(path, output, client, error):
    """Which notebook, code cell and line failed, and why, after the traceback; or that it stopped.

    At Ctrl-C nbclient shuts the kernel down, and then misses it, or finds it dead; the cell may
    have had its last word.
    """
    shown = [o for o in (client.cell.outputs if client.cell else []) if o.output_type == "error"]
    missed = isinstance(error, (AssertionError, AttributeError))  # the latter of older ones
    if missed and client.km is not None:
        raise error
    if missed or (shown and shown[-1].ename == "KeyboardInterrupt"):
        return (f"{path.name}, {client.place}: stopped; what was finished is in {output}, "
                "and the same command goes on from there")
    if not shown:
        return f"{path.name}, {client.place}: {error}"
    traceback = COLOUR.sub("", "\n".join(shown[-1].traceback))
    lines = CELL_LINE.findall(traceback)
    line = f", line {lines[0]}" if lines else ""  # the first is this cell; deeper ones it called
    return (f"{traceback}\n\n{path.name}, {client.place}{line}: "
            f"{shown[-1].ename}: {shown[-1].evalue}")


def write_executed(notebook, path):
    """Write an executed notebook and its HTML; returns None, or why that was not possible."""
    tidy(notebook)
    try:
        write_whole(path, nbformat.writes(notebook).rstrip("\n") + "\n")
        html, reason = page_of(notebook)
        write_whole(path.with_suffix(".html"), html)
    except OSError as error:
        return f"{path.name} was not written: {reason_of(error)}"
    if reason:
        say_once(reason)
    return None


def tidy(notebook):
    """Take out what belongs to the run and not to the page: progress bars and widget state."""
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            for stream in [o for o in cell.outputs if o.output_type == "stream"]:
                stream.text = OVERWRITTEN.sub("", stream.text)
            cell.outputs = [o for o in cell.outputs if o.get("text", "a figure").strip()
                            and WIDGET not in o.get("data", {})]


if __name__ == "__main__":
    sys.exit(main())
