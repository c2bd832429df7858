"""cscm77/studies/results_file.py: what is kept, what is made anew, what is refused."""

# ruff: noqa: D103

import io
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from cscm77.studies import results_file
from cscm77.studies.results_file import Study, parse, read_results, run_command

NAMES = ["real", "A, seed 0", "B, seed 0", "A, seed 1"]
STUDY = Study("python -m tried", "Trains.", 3, Path("tried.json"), lambda _: {"epochs"},
              lambda row: f"{row['epochs']} epochs")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tried.json"


@pytest.fixture
def run(path, tiny_mnist, monkeypatch):
    """The command with trainings that take no time: call it with options, get its status.

    `trained` are the names of what the last call trained, `number` counts the trainings of all
    calls, `failures` is what is to happen in a training: {name: exception}.
    """
    monkeypatch.setenv("CSCM77_IMAGES", "256")  # set here, so that what it sets is put back too

    def row_of(name, epochs):
        if name in run.failures:
            raise run.failures[name]
        run.trained.append(name)
        run.number += 1
        return {"epochs": epochs, "number": run.number}

    def prepare(loaders, epochs):
        return results_file.provenance_of(loaders, epochs), {
            name: (f"the {name}", partial(row_of, name, epochs)) for name in NAMES}

    def run(*options):
        run.trained = []
        return run_command(STUDY, prepare, lambda path: ["1.5 ± 0.5"], [
            "--mnist", str(tiny_mnist), "--images", "256", "--output", str(path), "--epochs", "1",
            *options])

    run.number, run.failures = 0, {}
    return run


@pytest.fixture
def made(run, path):
    """The content of the file that a first call of the command made."""
    assert run() == 0
    return json.loads(path.read_text())


def results_in(path):
    return read_results(STUDY, path)["results"]


def old_of(path):
    return path.with_name("tried.json.old")


# ---------------------------------------------------------------- what is trained, and what is kept


def test_each_training_is_done_once_and_kept_with_what_it_was_made_from(run, path, capsys):
    assert run() == 0
    assert run.trained == list(results_in(path)) == NAMES
    provenance = read_results(STUDY, path)["provenance"]
    assert provenance == {
        "data": "MNIST", "training images": 256, "validation images": 256, "test images": 256,
        "epochs": 1, "batch": 128, "torch": torch.__version__, "threads": 1,
        "processor": provenance["processor"]}
    printed = capsys.readouterr().out
    assert "2/4 the A, seed 0: 1 epochs\n" in printed and printed.endswith("\n1.5 ± 0.5\n")
    assert sorted(file.name for file in path.parent.iterdir()) == ["tiny", "tried.json"]
    assert run() == 0 and run.trained == []


@pytest.mark.parametrize("finished", [0, 3])
def test_ctrl_c_keeps_what_is_finished_and_the_next_start_goes_on(finished, run, path, capsys):
    run.failures[NAMES[finished]] = KeyboardInterrupt()
    assert run() == 130
    assert capsys.readouterr().err == (f"\nStopped; what is finished is kept in {path}, "
                                       "and the same command goes on from there.\n")
    assert list(results_in(path)) == run.trained == NAMES[:finished]
    run.failures.clear()
    assert run() == 0 and run.trained == NAMES[finished:]
    assert results_in(path) == {name: {"epochs": 1, "number": number}
                                for number, name in enumerate(NAMES, 1)}


def test_a_row_taken_out_is_made_anew_in_its_place_and_strange_rows_stay(made, run, path):
    made["results"] = {"of old": made["results"].pop(NAMES[1]), **made["results"]}
    path.write_text(json.dumps(made))
    assert run() == 0
    assert run.trained == NAMES[1:2] and list(results_in(path)) == [*NAMES, "of old"]


def test_a_file_without_results_binds_nobody(run, path):
    made_from = {"data": "MNIST", "training images": 9, "epochs": 10}
    path.write_text(json.dumps({"provenance": made_from, "results": {}}))
    assert run() == 0 and run.trained == NAMES


def test_fresh_begins_anew_and_keeps_the_old_file(run, path):
    assert run("--fresh") == 0  # with nothing there yet
    old = path.read_bytes()
    assert run("--epochs", "2", "--fresh") == 0 and run.trained == NAMES
    assert old_of(path).read_bytes() == old
    assert {row["epochs"] for row in results_in(path).values()} == {2}


# ---------------------------------------------------------------- what is refused


def test_results_of_other_conditions_are_not_added_to(made, run, path, capsys):
    for field, value in {"data": "stand-in digits", "training images": 55000, "epochs": 10,
                         "validation images": 5000, "test images": 10000, "batch": 64,
                         "torch": "1.0", "processor": "abacus", "threads": 64}.items():
        other = {**made, "provenance": {**made["provenance"], field: value}}
        path.write_text(json.dumps(other))
        assert run() == 1 and run.trained == []
        assert (f"({field}: expected {value!r} as there, found {made['provenance'][field]!r}); "
                "--fresh begins anew") in capsys.readouterr().err
        assert json.loads(path.read_text()) == other


MADE_FROM = b'{"provenance": {"data": "MNIST", "training images": 5, "epochs": 1}, '


@pytest.mark.parametrize("content", [
    b"", b'{"provenance": {', b"\xff\xfe\x00", b"[]", b"null", b"3", b'{"results": {}}',
    b'{"provenance": [], "results": {}}',
    b'{"provenance": {"data": "MNIST"}, "results": {}}',
    MADE_FROM + b'"results": []}',
    MADE_FROM + b'"results": {"A": ["error"]}}',
    MADE_FROM + b'"results": {"A": {"minutes": 1}}}'])
def test_a_damaged_file_is_named(content, path):
    path.write_bytes(content)
    with pytest.raises(results_file.ResultsError) as caught:
        read_results(STUDY, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected results of python -m tried, found another or a "
                              "damaged file (")
    assert "--fresh" in message and "\n" not in message


def test_a_damaged_file_is_left_alone_until_all_is_made_anew(run, path, capsys):
    path.write_bytes(b"[]")
    assert run() == 1 and run.trained == []
    assert capsys.readouterr().err.count("\n") == 1 and path.read_bytes() == b"[]"
    assert run("--fresh") == 0 and old_of(path).read_bytes() == b"[]"


def test_a_missing_file_names_the_command_that_makes_it(path):
    with pytest.raises(FileNotFoundError, match=r"tried\.json: expected results, found no file; "
                                                "python -m tried makes it in some 3 minutes"):
        read_results(STUDY, path)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_trained(run, path, capsys):
    path.write_text("in the way")
    assert run("--output", str(path / "inner.json")) == 1 and run.trained == []
    assert f"{path / 'inner.json'}: cannot be written (" in capsys.readouterr().err
    assert run("--output", str(path.parent)) == 1 and run.trained == []
    assert "Is a directory" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(run, path, monkeypatch, capsys):
    def full_at_the_third(*names):
        if run.number == 2:
            raise OSError(28, "No space left on device")
        replace(*names)

    replace = os.replace
    monkeypatch.setattr(os, "replace", full_at_the_third)
    assert run() == 1
    assert capsys.readouterr().err == f"{path}: cannot be written (No space left on device)\n"
    assert list(results_in(path)) == NAMES[:1]
    assert sorted(file.name for file in path.parent.iterdir()) == ["tiny", "tried.json"]


@pytest.mark.parametrize("options, message", [
    (["--images", "127"], "--images: expected a whole number of at least 128, found 127"),
    (["--images", "many"], "--images: expected a whole number of at least 128, found 'many'"),
    (["--epochs", "0"], "--epochs: expected a whole number of at least 1, found 0"),
    (["--fast"], "unrecognized arguments: --fast"),
])
def test_a_bad_command_line_is_named(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(STUDY, options)
    assert message in capsys.readouterr().err


def test_options_left_out_mean_the_study_s_own(path):
    options = parse(STUDY._replace(path=path), [])
    assert (options.output, options.epochs, options.images) == (path, 10, None)


@pytest.mark.parametrize("source, found", [
    ("auto", "train-images-idx3-ubyte"),
    ("paper", "CSCM77_SOURCE: expected one of auto, mnist, strokes, found 'paper'\n")])
def test_without_data_there_is_a_message_and_no_traceback(source, found, monkeypatch, path, capsys):
    monkeypatch.setattr("cscm77.data.mnist.MIRRORS", ())
    monkeypatch.setenv("CSCM77_SOURCE", source)
    folder = ["--mnist", str(path.parent / "nowhere")] if source == "auto" else []
    assert run_command(STUDY, pytest.fail, pytest.fail, ["--output", str(path), *folder]) == 1
    assert found in capsys.readouterr().err


def test_a_table_that_the_terminal_cannot_show_does_not_end_the_command(run, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert run() == 0
    shown.flush()
    assert b"1.5 " in shown.buffer.getvalue()
