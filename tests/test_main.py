"""python -m cscm77, on small notebooks written here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cscm77 import __main__ as command

TOP = Path(__file__).resolve().parent.parent
GOOD = [
    "# First section", "from cscm77.report.evidence import Page\nprint('one')\nprint('two')\n"
    "display(Page('a table', ('', ['n'], {'row': ['1']})))",
    "## Second section",
    "import os\nprint(os.environ['CSCM77_IMAGES'], os.path.isdir(os.environ['CSCM77_RESULTS']))",
    "x = 5\nx",
    "for i in range(3):\n    print(f'\\r{i}/3 of a bar', end='')\n"
    "print('\\r             \\r', end='')",
]
sends_sigint = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")


def write_notebook(path, cells):
    made = [new_markdown_cell(c) if c.startswith("#") else new_code_cell(c) for c in cells]
    nbformat.write(new_notebook(cells=made), path)
    return path


def started(notebook, *arguments, **settings):
    """The command at work, its text passed on line by line, its results in `out` beside."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "cscm77", notebook, "--output", notebook.parent / "out",
         *map(str, arguments)], cwd=TOP, text=True, encoding=settings.get("PYTHONIOENCODING"),
        env={**os.environ, **settings, "PYTHONPATH": str(TOP)},  # for the kernels elsewhere
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(notebook, *arguments, **settings):
    with started(notebook, *arguments, **settings) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def executed(notebook):
    return nbformat.read(notebook.parent / "out" / notebook.name, as_version=4)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    notebook = write_notebook(tmp_path_factory.mktemp("good") / "good.ipynb", GOOD)
    before = notebook.read_bytes()
    done = run(notebook, "--images", 7)
    assert notebook.read_bytes() == before
    return done, notebook


def test_it_passes_on_what_cells_print_and_times_each_section(good):
    done, _ = good
    assert (done.returncode, done.stderr) == (0, "")  # nor does a debugger speak of itself there
    lines = done.stdout.splitlines()
    places = [lines.index(line) for line in (
        "## First section", "one", "two", "a table", "row  1", "## Second section")]
    assert places == sorted(places)
    assert "7 True" in lines
    assert sum("section: " in line and line.endswith(" s)") for line in lines) == 2


def test_it_writes_the_executed_notebook_and_html_without_progress_bars(good):
    _, notebook = good
    code = [c for c in executed(notebook).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == [1, 2, 3, 4]
    assert code[2].outputs[0].data["text/plain"] == "5" and code[3].outputs == []
    assert "one" in (notebook.parent / "out" / "good.html").read_text()


@sends_sigint
def test_ctrl_c_stops_it_with_one_line_and_leaves_no_kernel(tmp_path):
    notebook = write_notebook(tmp_path / "long.ipynb", [
        "# First", "import os\nprint('kernel', os.getpid())",
        "# Long", "print('waiting')\nimport time\ntime.sleep(600)"])
    with started(notebook) as process:
        for line in process.stdout:
            if line.startswith("kernel "):
                kernel = int(line.split()[1])
            if line == "waiting\n":
                process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 1 and "Traceback" not in said
    assert said.splitlines()[-1].startswith('long.ipynb, code cell 2 ("Long"): stopped')
    assert executed(notebook)
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


def test_it_passes_text_on_before_the_cell_ends_and_replaces_the_original_when_asked(tmp_path):
    """The cell waits for a file that is written only when its line has come through."""
    go = tmp_path / "go"
    notebook = write_notebook(tmp_path / "waits.ipynb", [
        "import pathlib, time\nprint('waiting')\nfor _ in range(600):\n    time.sleep(0.1)\n"
        f"    if pathlib.Path({str(go)!r}).exists():\n        break\n"
        "else:\n    raise TimeoutError"])
    with started(notebook, "--update") as process:
        for line in process.stdout:
            if line == "waiting\n":
                go.touch()
        assert process.wait() == 0
    assert nbformat.read(notebook, as_version=4).cells[0].outputs[0].text == "waiting\n"


@pytest.mark.parametrize("cells, message", [
    (["# Fine", "print('fine')", "# Broken", "def inner():\n    return 1 / 0\n\n\ninner()"],
     'code cell 2 ("Broken"), line 5: ZeroDivisionError: division by zero\n'),
    (["print('fine')", "y = 2\nz = = 3"], 'code cell 2 ("Start"), line 2: SyntaxError'),
    (["print('fine')", "import os\nos._exit(3)"], 'code cell 2 ("Start"): '),
], ids=["error", "syntax", "dead kernel"])
def test_a_failing_cell_ends_it_with_status_1_and_its_place(tmp_path, cells, message):
    notebook = write_notebook(tmp_path / "bad.ipynb", cells)
    before = notebook.read_bytes()
    done = run(notebook, "--update")
    assert done.returncode == 1 and f"\nbad.ipynb, {message}" in done.stderr
    assert "fine" in done.stdout
    assert executed(notebook)  # as far as it came
    assert notebook.read_bytes() == before


def test_text_that_the_terminal_cannot_show_stops_nothing(tmp_path):
    notebook = write_notebook(tmp_path / "text.ipynb", [
        "# Sigma \u03c3", "print('\u03c3 = 1 \u00b1 2')", "raise ValueError('\u03c3')"])
    done = run(notebook, PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and r"## Sigma \u03c3" in done.stdout
    assert done.stderr.splitlines()[-1].endswith(r"line 1: ValueError: \u03c3")
    assert executed(notebook).cells[1].outputs[0].text == "\u03c3 = 1 \u00b1 2\n"
    assert "\u03c3 = 1 \u00b1 2" in (tmp_path / "out" / "text.html").read_text(encoding="utf-8")


@pytest.fixture
def two_cells(monkeypatch, tmp_path):
    """A notebook whose execution is played: its first cell prints, and no kernel is started."""
    def play(client, **_):
        client.nb.cells[0].outputs = [new_output("stream", text="1\n")]
        print("1\n", end="")

    monkeypatch.setattr(command.TerminalClient, "execute", play)
    return write_notebook(tmp_path / "two.ipynb", ["print(1)", "print(2)"])


def test_what_was_executed_is_written_where_printing_fails(two_cells, tmp_path, monkeypatch):
    def closed(*words, **_):
        if words == ("1\n",):
            raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    before = two_cells.read_bytes()
    with pytest.raises(BrokenPipeError):
        command.run(two_cells, tmp_path / "out", update=True)
    assert executed(two_cells).cells[0].outputs and two_cells.read_bytes() == before
    assert (tmp_path / "out" / "two.html").is_file()


def test_a_cell_that_was_interrupted_is_stopped_though_its_kernel_died_of_it(two_cells, tmp_path,
                                                                             monkeypatch):
    def die(client, **_):
        client.cell = client.nb.cells[0]
        client.cell.outputs = [new_output("error", ename="KeyboardInterrupt", traceback=["Trace"])]
        raise DeadKernelError

    monkeypatch.setattr(command.TerminalClient, "execute", die)
    said = command.run(two_cells, tmp_path / "out")
    assert "the same command goes on from there" in said and "Trace" not in said


def test_a_full_disk_is_said_in_words(two_cells, tmp_path, full_disk, capsys):
    assert command.main([str(two_cells), "--output", str(tmp_path / "out"), "--update"]) == 1
    assert "two.ipynb was not written: No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_formulas_that_stay_tex_are_said_once(two_cells, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)  # not installed
    notebook = nbformat.read(two_cells, as_version=4)
    notebook.cells.append(new_markdown_cell("$x_1$"))
    for name in ("one", "two"):
        assert command.write_executed(notebook, tmp_path / f"{name}.ipynb") is None
        assert "$x_1$" in (tmp_path / f"{name}.html").read_text()
    assert capsys.readouterr().out == (
        "Formulas stay TeX in the HTML: latex2mathml is not installed\n")


@pytest.mark.parametrize("arguments, message", [
    (["nonsense"], "expected vae, gan or the file of a notebook, found 'nonsense'"),
    (["vae.py"], "found 'vae.py'"),
    (["--images", "0"], "--images: expected at least 1, found 0"),
    (["--images", "many"], "argument --images: invalid int value: 'many'"),
    (["--output", str(TOP)], "--output: expected another folder"),
    (["--demo", "--update"], "--demo: expected no --update or --fresh"),
])
def test_a_bad_command_line_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.parse(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_names_of_notebooks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command.parse([]).notebooks == list(command.NOTEBOOKS.values())
    assert command.parse(["gan"]).notebooks == [TOP / "generative_adversarial_networks.ipynb"]
    (found,) = command.parse(["variational_autoencoders.ipynb"]).notebooks
    assert found == TOP / "variational_autoencoders.ipynb"
    assert command.parse([]).output == TOP / "results"


def test_a_relative_mnist_dir_is_meant_from_where_the_command_is_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given, meant in (("digits", tmp_path / "digits"),
                         ("~/digits", Path.home().resolve() / "digits")):
        monkeypatch.setenv("MNIST_DIR", given)
        environment = command.kernel_environment(tmp_path / "results", None)
        assert environment["MNIST_DIR"] == str(meant) and "CSCM77_IMAGES" not in environment


def test_tidy_keeps_text_and_drops_bars_widgets_and_timings():
    cell = new_code_cell("x", metadata={"execution": {"a": "b"}}, outputs=[
        new_output("stream", name="stdout", text="\rEpoch 0:  10%"),
        new_output("stream", name="stdout", text="\r         \r"),
        new_output("stream", name="stdout", text="Loss: 3\n"),
        new_output("display_data", data={"text/plain": "figure"}),
        new_output("display_data", data={command.WIDGET: {}}),
        new_output("stream", name="stdout", text="\r  \r")])
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    command.tidy(notebook)
    assert [o.get("text", "figure") for o in notebook.cells[0].outputs] == ["Loss: 3\n", "figure"]
    assert "widgets" not in notebook.metadata and "execution" not in notebook.cells[0].metadata


TRAINING = '''import os, signal, time
from pathlib import Path
import torch
import cscm77_helper
from vae import VAE
digits = [(torch.full((8, 1, 28, 28), 0.5), torch.arange(8))] * 4
path = Path(os.environ['CSCM77_RESULTS']) / 'checkpoints' / 'train' / 'vae.pt'
loss_function = cscm77_helper.loss_function
def loss_that_waits_for_ctrl_c(*arguments):
    in_a_step = torch.is_grad_enabled()  # it is also asked for a value that tells it from others
    if os.environ.get('STOP_HERE') and in_a_step and path.exists():
        handler = signal.getsignal(signal.SIGINT)
        print('training', flush=True)
        while signal.getsignal(signal.SIGINT) is handler:  # it hears one, and is put back
            time.sleep(0.01)
    return loss_function(*arguments)
cscm77_helper.loss_function = loss_that_waits_for_ctrl_c
torch.manual_seed(0)
model = VAE(784, hidden_dim=8)
for epoch in range(3):
    print(cscm77_helper.train_vae(epoch, model, digits, checkpoint=path).loss)'''


@sends_sigint
def test_a_training_stopped_by_ctrl_c_goes_on_at_the_next_command(tmp_path):
    notebook = write_notebook(tmp_path / "train.ipynb", ["# Train", TRAINING])
    with started(notebook, STOP_HERE="1") as process:
        for line in process.stdout:
            if line == "training\n":  # in the second epoch
                process.send_signal(signal.SIGINT)
                break
        assert "the same command goes on from there" in process.communicate()[1]
    stopped, never = (run(notebook, "--output", tmp_path / name).stdout
                      for name in ("out", "other"))
    assert "Going on at epoch 1, step 1, from vae.pt" in stopped and "restored" not in never
    losses = [[line for line in text.splitlines() if line.replace(".", "").isdecimal()]
              for text in (stopped, never)]
    assert losses[0] == losses[1] and len(losses[1]) == 3


def test_fresh_keeps_the_checkpoints_of_that_notebook_under_another_name(two_cells, tmp_path,
                                                                         capsys):
    folder = tmp_path / "out" / "checkpoints"
    for name in ("two", "other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "vae.pt").write_text(name)
    arguments = [str(two_cells), "--output", str(tmp_path / "out")]
    for more, anew, left in (([], False, "two"), (["--fresh"], True, "two-1"),
                             (["--fresh"], False, "two-1")):
        assert command.main([*arguments, *more]) == 0
        assert ("Training anew" in capsys.readouterr().out) == anew
        assert sorted(path.name for path in folder.iterdir()) == ["other", left]
        assert (folder / left / "vae.pt").read_text() == "two"


@pytest.mark.parametrize("user", [0, 1000])
def test_a_demonstration_opens_a_notebook_for_root_too(user, monkeypatch, tmp_path, capsys):
    calls, notebook = [], command.NOTEBOOKS["gan"]
    monkeypatch.setattr(command.os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(command.subprocess, "call",
                        lambda words, **options: calls.append((words, options["env"])) or 7)
    arguments = ["--demo", "gan", "--output", str(tmp_path)]
    assert command.main(arguments) == 7
    said = capsys.readouterr().out
    assert f"Nothing of {notebook.name} is trained yet" in said
    assert ("with --allow-root" in said) == (user == 0)
    ((words, environment),) = calls
    assert words == [sys.executable, "-m", "jupyter", "lab", str(notebook),
                     *["--allow-root"] * (user == 0)]
    assert environment["CSCM77_RESULTS"] == str(tmp_path) and "TQDM_DISABLE" not in environment
    trained = tmp_path / "checkpoints" / notebook.stem / "300 of MNIST" / "fc_gan.pt"
    trained.parent.mkdir(parents=True)
    trained.write_bytes(b"")
    assert command.main(arguments) == 7 and "Nothing" not in capsys.readouterr().out


def test_ctrl_c_ends_a_demonstration(monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.subprocess, "call", stop)
    assert command.main(["--demo", "gan", "--output", str(tmp_path)]) == 130


@pytest.mark.parametrize("words, reports", [([], 1), (["vae"], 0)])
def test_a_run_of_both_notebooks_ends_with_the_report(tmp_path, monkeypatch, words, reports):
    written = []
    monkeypatch.setattr(command, "run", lambda *arguments, **options: None)
    monkeypatch.setattr(command, "write_report", lambda folder: written.append(folder) or 1)
    assert command.main([*words, "--output", str(tmp_path)]) == 0
    assert written == [tmp_path] * reports
