"""cscm77/report/paper.py and report.typ: four pages, whose every number comes from the results."""

import copy
import io
import json
import math
import re
import runpy
import sys
from decimal import ROUND_HALF_UP, Decimal
from statistics import mean, stdev

import matplotlib.pyplot as plt
import pytest
import torch

import gan
import vae
from cscm77.report import paper
from cscm77.report.evidence import COLUMN, PAGE
from cscm77.report.pictures import draw_digits, figure_bytes
from cscm77.training import journal
from cscm77_helper import count_params

TEMPLATE = (paper.ROOM / "report.typ").read_text(encoding="utf-8")
SOURCES = {name: json.loads((paper.STUDIES / name).read_text())
           for name in ("comparison.json", "study.json")}
COMPARED = SOURCES["comparison.json"]["results"]
VAES, GANS = "Variational autoencoders", "Generative adversarial networks"
MODELS = "VAE", "CVAE", "FC-GAN", "LS-GAN", "DC-GAN"
CHARTS = "vae_training", "gan_probabilities", "cvae_confusion"
GRIDS = "all_models", "vae_interpolation", "dc-gan_interpolation"


def table(columns, rows):
    return {"title": "a title", "columns": dict.fromkeys(columns, ".2f"), "rows": rows}


METRICS = {
    VAES: {"made from": "MNIST, 55,000 training images; VAE 10 epochs, seed 0", "tables": {
        "elbo": table(["-ELBO", "reconstruction", "KL"], {
            "VAE": [102.8347, 82.4299, 20.4048], "CVAE": [98.6948, 83.0272, 15.6676],
            "perfect reconstruction": [None, 45.5312, None],
            "mean training image": [None, 205.8021, None]}),
        "bounds": table(["K = 1", "K = 10", "K = 100"], {
            "VAE": [102.88, 99.02, 97.5617], "CVAE": [98.66, 95.38, 94.2183]})},
        "figures": {"cvae_confusion": "digits asked for, 1000 each"}},
    GANS: {"made from": "MNIST, 55,000 training images; FC-GAN 10 epochs, seed 0", "tables": {
        "discriminators": table(["parameters of D", "of G", "test images", "samples"], {
            "FC-GAN": [267009, 1952528, 0.52, 0.253], "LS-GAN": [267009, 1952528, 0.557, 0.272],
            "DC-GAN": [1102721, 6675009, 0.756, 0.384]})},
        "figures": {"all_models": "ten samples of each model; nothing was chosen"}}}


@pytest.fixture(scope="module")
def pictures():
    grid = draw_digits(torch.rand(20, 784), columns=10)
    grid.set_size_inches(COLUMN, COLUMN * 62 / 302)
    grid, chart = (figure_bytes(fig, "pdf") for fig in (grid, plt.figure(figsize=(PAGE, 2))))
    return {**dict.fromkeys(GRIDS, grid), **dict.fromkeys(CHARTS, chart)}


@pytest.fixture
def results(tmp_path, pictures):
    """A folder of results, of which a report can be made."""
    return laid_out(tmp_path / "results", pictures)


def laid_out(folder, pictures, metrics=METRICS):
    (folder / "print").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name, picture in pictures.items():
        (folder / "print" / f"{name}.pdf").write_bytes(picture)
    return folder


def built(folder, pictures, metrics=METRICS, **sources):
    """A report made from other numbers: its text, and its four pages."""
    pytest.importorskip("typst")
    pypdf = pytest.importorskip("pypdf")
    results = laid_out(folder / "results", pictures, metrics)
    for name, made in {**SOURCES, **{f"{key}.json": made for key, made in sources.items()}}.items():
        (folder / name).write_text(json.dumps(made))
    reader = pypdf.PdfReader(io.BytesIO(paper.make_report(results, folder)))
    assert len(reader.pages) == paper.PAGES
    with pytest.MonkeyPatch.context() as patch:  # on one long page no figure parts a sentence
        (folder / "report.typ").write_text(TEMPLATE.replace(
            'paper: "a4"', "width: 21cm, height: 300cm").replace("columns: 2", "columns: 1"))
        (folder / "references.bib").write_bytes((paper.ROOM / "references.bib").read_bytes())
        patch.setattr(paper, "ROOM", folder)
        patch.setattr(paper, "PAGES", 1)
        [page] = pypdf.PdfReader(io.BytesIO(paper.make_report(results, folder))).pages
    return plain(page.extract_text()), reader


def plain(text):
    """Text of a page without hyphenation, in single spaces."""
    text = re.sub(r"[-\N{SOFT HYPHEN}]\s*\n(?=[a-z])", "", text)
    return re.sub(r"\s+", " ", text).replace("\N{MINUS SIGN}", "-")


@pytest.fixture(scope="module")
def report(tmp_path_factory, pictures):
    return built(tmp_path_factory.mktemp("report"), pictures)


def samples_of(model):
    return [kind for kind in ("quality", "averaged") if kind in COMPARED[f"{model}, seed 0"]]


def over_seeds(measure, model, results=COMPARED, weights="quality"):
    """A measure of a model in comparison.json, seed by seed; some stand beside the samples'."""
    rows = [results[f"{model}, seed {seed}"] for seed in range(3)]
    beside = measure + " averaged" * (weights == "averaged")
    return [row[weights][measure] if measure in row.get(weights, {}) else row[beside]
            for row in rows]


def fixed(number, places):
    number = Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{number:,}"


def pm(values, places, scale=1):
    values = [scale * value for value in values]
    return f"{fixed(mean(values), places)} ± {fixed(stdev(values), places)}"


# ---------------------------------------------------------------- the page, and its numbers


def test_it_is_four_pages_of_a4_with_metadata(report):
    text, reader = report
    for page in reader.pages:
        assert [round(float(side) / 72 * 25.4) for side in page.mediabox[2:]] == [210, 297]
    assert reader.metadata.title.startswith("A Label")
    assert reader.trailer["/Root"]["/Lang"] == "en-GB"
    sections = ["1 Introduction", "2 Methodology", "3 Results", "4 Discussion and Conclusion",
                "References"]
    assert [text.index(name) for name in sections] == sorted(text.index(name) for name in sections)
    assert "Made from less than" not in text and "[run on" not in text


@pytest.mark.parametrize("model", MODELS)
def test_the_table_of_results_is_that_of_the_comparison(report, model):
    text, _ = report
    columns = {"frechet": 0, "kernel": 0, "uniformity": 3, "precision": 3, "recall": 3,
               "density": 2, "coverage": 3}
    for samples in samples_of(model):
        cells = [pm(over_seeds(name, model, weights=samples), places)
                 for name, places in columns.items()]
        elbo = "–" if "GAN" in model else pm(over_seeds("-ELBO", model, weights=samples), 1)
        name = model + ", averaged" * (samples == "averaged")
        assert f"{name} {' '.join(cells)} {elbo}" in text
    assert f"{over_seeds('parameters', model)[0]:,}" in text


def test_the_other_tables_are_those_of_their_files(report):
    text = report[0].replace("†", "")  # where no difference was shown
    for model in ("VAE", "FC-GAN", "LS-GAN", "DC-GAN"):
        shares = shares_of_digits(over_seeds("classes", model))
        assert f"{model} {' '.join(fixed(share, 1) for share in shares)}" in text
    study = SOURCES["study.json"]["results"]
    for size in (128, 256):
        assert f"{size}: {fixed(study[f'VAE hidden_dim={size}']['val_losses'][-1], 1)}" in text
    row = study["CVAE label_gains=(1, 1)"]
    accuracy = [row["accuracy"]] if isinstance(row["accuracy"], float) else row["accuracy"]
    assert f"1/1: {fixed(row['val_losses'][-1], 1)} ({fixed(100 * accuracy[0], 1)} %)" in text
    distance = study["FC-GAN learning_rate=0.0003"]["averaged"]["frechet"]
    assert f"FC, rate 0.0003: {fixed(distance, 0)}" in text
    assert "(FC-GAN, lower in every seed) and, after two epochs, " in text  # of beta1 = 0


def test_every_number_with_a_point_is_a_result_or_a_setting(report):
    text, _ = report
    text = re.sub(r"\bReferences \[1\].*|\b\d\.\d (?=[A-Z])", "", text)  # nor numbers of sections
    settings = {0.01, 0.2, 0.5, 0.9, 0.995, 0.999, 0.001, 0.0003, 0.003}
    results = [*results_of_seeds(), *(n for _, n in numbers([METRICS, SOURCES])), math.log(10)]
    results += [share for model in MODELS for samples in samples_of(model)
                for share in shares_of_digits(over_seeds("classes", model, weights=samples))]
    results += shares_of_digits([COMPARED["training images"]["quality"]["classes"]])
    results += [100 * number for number in results]
    found = re.findall(r"(?<![\d.])\d[\d,]*\.\d+", text)
    assert len(found) > 200
    for number in found:
        places = len(number.partition(".")[2])
        assert float(number) in settings or any(
            fixed(abs(float(result)), places) == number for result in results), number


def results_of_seeds():
    """Means, deviations, ranges over seeds of all that is measured, and distances between them."""
    for made, seed in (("comparison.json", r", seed \d"), ("study.json", r" seed=\d")):
        groups = {}
        for name, row in SOURCES[made]["results"].items():
            for keys, number in numbers({**row, "last": row.get("val_losses", [0])[-1]}):
                if all(isinstance(key, str) for key in keys):  # not one of a list
                    groups.setdefault((re.sub(seed, "", name), keys), []).append(number)
        means = {key: mean(values) for key, values in groups.items()}
        for (_, keys), values in groups.items():
            yield from (mean(values), max(values) - min(values),
                        stdev(values) if len(values) > 1 else 0)
            if keys in (("last",), ("-ELBO",), ("quality", "-ELBO")):
                yield from (mean(values) - other for (_, its), other in means.items()
                            if its == keys)


def shares_of_digits(classes):
    """The share in % of each digit among the samples of all seeds."""
    counts = [sum(column) for column in zip(*classes, strict=True)]
    return [100 * count / sum(counts) for count in counts]


def numbers(tree, keys=()):
    """Every number of nested lists and dictionaries, with the keys that lead to it."""
    if isinstance(tree, (list, dict)):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(part, (*keys, key))
    elif isinstance(tree, (int, float)):
        yield keys, tree


def test_no_result_is_typed_in_the_template():
    prose = re.sub(r"//.*|\d+(?:\.\d+)?(?:cm|em|pt|%|in)\b|#[0-9a-f]{6}", "", TEMPLATE)
    body = prose[prose.index("= Introduction"):]
    code = re.sub(r"(?:node|arrow|place)\([^\n]*|(?:fixed|pm|versus|from-to)\([^)]*\)", "", body)
    typed = set(re.findall(r"(?<![\w.])\d+\.\d+", code))
    assert typed <= {"0.0", "0.01", "0.2", "0.5", "0.9", "0.995", "0.999", "0.001", "0.003",
                     "0.0003", "0.6", "0.86", "0.84", "0.07", "0.82", "1.6"}


def test_the_settings_that_the_text_names_are_those_of_the_code():
    assert vae.VAE(784).hidden_dim == 400 and vae.VAE(784).latent_size == 15
    assert (vae.ENCODER_LABEL_GAIN, vae.DECODER_LABEL_GAIN) == (16, 8)
    assert gan.LEAK == 0.01 and gan.NOISE_DIM == 96 and journal.AVERAGE_EVERY == 8
    assert getattr(journal, "GAN_DECAY", 0.999) == 0.999
    made = {"VAE": (vae.VAE(784),), "CVAE": (vae.CVAE(784),),
            "FC-GAN": (gan.discriminator(), gan.generator()),
            "DC-GAN": (gan.build_dc_classifier(), gan.build_dc_generator())}
    for model, networks in made.items():
        assert over_seeds("parameters", model)[0] == sum(map(count_params, networks))
    for text in ("[400]", "[15 (fixed)]", "[16/8]", "slope 0.01", "[96, uniform", "beta = 0.999"):
        assert text in TEMPLATE


def test_every_reference_is_whole_and_cited(report):
    text, _ = report
    entries = re.findall(r"@\w+\{(\w+),(.*)\}", (paper.ROOM / "references.bib").read_text())
    assert len(entries) >= 12
    body, listed = text.split("References [1]")
    for number, (key, fields) in enumerate(entries, 1):
        assert f"@{key}" in TEMPLATE and f"[{number}]" in body
        assert number == 1 or f"[{number}]" in listed
        assert all(f"{field} = {{" in fields for field in ("author", "title", "year"))
        assert "booktitle = {" in fields or "journal = {" in fields


# ---------------------------------------------------------------- what it may say


CLEAR = {  # a model's -ELBO, distance and coverage, by the last weights and by the averaged ones
    "VAE": (103, 209, 0.56, None), "CVAE": (99, 70, 0.79, None),
    "FC-GAN": (None, 221, 0.31, (133, 0.55)), "LS-GAN": (None, 215, 0.33, (124, 0.57)),
    "DC-GAN": (None, 45, 0.80, (45.2, 0.81))}


def clear(spread=0.01, **changed):
    """A comparison in which the models differ as `CLEAR` says, by far more than their seeds do."""
    made = copy.deepcopy(SOURCES["comparison.json"])
    for model, (elbo, distance, coverage, averaged) in {**CLEAR, **changed}.items():
        for seed in range(3):
            factor = 1 + spread * (seed - 1)
            row = made["results"][f"{model}, seed {seed}"]
            row["quality"].update(frechet=distance * factor, coverage=coverage * factor)
            if averaged:
                factor = 2 - factor  # so that pairs that lie close change places
                row["averaged"].update(frechet=averaged[0] * factor, coverage=averaged[1] * factor)
            else:
                row.pop("averaged", None)
            if elbo:
                precision, recall = (0.91, 0.65) if model == "VAE" else (0.97, 0.47)
                row["quality"].update({
                    "-ELBO": elbo * factor if spread > 0.1 else elbo + 0.1 * seed,
                    "precision": precision + seed / 1000, "recall": recall + seed / 1000})
    return made


SAID = {  # what those numbers bear out, and what it becomes when they are turned round
    "the label saves": "with the label it is worse by",
    "bound falls from": "bound rises from",
    "H1 (label) is supported": "H1 (label) is contradicted",
    "Convolutions bring the samples’ Fréchet distance from 221":
        "Convolutions raise the samples’ Fréchet distance from 45",
    "H2 (convolutions) is supported by distance and coverage alike":
        "H2 (convolutions) is contradicted",
    "for the FC-GAN, is lower in every seed": "for the FC-GAN, is higher in every seed",
    "trades variety for cleanness": None,
    "for the DC-GAN nothing was shown": None,
    "Averaging lowers the Fréchet distance in every training for the FC-GAN":
        "Averaging lowers no Fréchet distance beyond the spread",
    "H3 (averaging) is supported for the FC-GAN and LS-GAN": "H3 (averaging) is not supported",
    "PyTorch’s own, whose weights shrink": None}


@pytest.fixture(scope="module")
def clear_report(tmp_path_factory, pictures):
    return built(tmp_path_factory.mktemp("clear"), pictures, comparison=clear())[0]


def test_a_sentence_goes_or_turns_with_its_numbers(tmp_path, pictures, clear_report):
    turned_round = {"VAE": CLEAR["CVAE"], "CVAE": CLEAR["VAE"],
                    "FC-GAN": (None, 45, 0.80, (133, 0.31)), "LS-GAN": (None, 100, 0.5, (200, 0.3)),
                    "DC-GAN": (None, 221, 0.31, (300, 0.2))}
    made = clear(**turned_round)
    for seed in range(3):  # and the label costs precision
        made["results"][f"CVAE, seed {seed}"]["quality"]["precision"] = 0.5
    study = copy.deepcopy(SOURCES["study.json"])
    study["results"]["VAE init=pytorch"]["val_losses"][-1] = 95.0
    study["results"]["DC-GAN batch_norm=False"]["averaged"]["frechet"] = 1.0
    text, _ = built(tmp_path, pictures, comparison=made, study=study)
    for said, turned in SAID.items():
        assert said in clear_report and said not in text, said
        assert turned is None or (turned in text and turned not in clear_report), turned
    assert "own: 95.0" in text and "Something tried was better" in text
    assert "without batch normalisation 1: better without" in text


def test_within_the_spread_nothing_was_shown(tmp_path, pictures):
    text, _ = built(tmp_path, pictures, comparison=clear(spread=0.95))
    for level in ("lies within the spread over seeds", "H1 (label) is not decided",
                  "for the FC-GAN, is not shown to differ", "H2 (convolutions) is not decided",
                  "of a better loss nothing was shown", "H3 (averaging) is not supported"):
        assert level in text, level
    assert not [said for said in SAID if "Averaging" in said and said in text]


def test_averaged_vaes_appear_when_they_are_there(tmp_path, pictures, clear_report):
    made = clear()
    for model in ("VAE", "CVAE"):
        for seed in range(3):
            row = made["results"][f"{model}, seed {seed}"]
            row["averaged"] = {**row["quality"], "frechet": 61.5, "accuracy": 0.98, "bound": 94.5,
                               "-ELBO": row["quality"]["-ELBO"] - 2.5}
            row["quality"]["bound"] = 97.0 + seed
    text, _ = built(tmp_path, pictures, comparison=made)
    elbo = pm(over_seeds("-ELBO", "VAE", made["results"], "averaged"), 1)
    assert re.search(rf"VAE, averaged 62 ± 0 [\d±. ]* {elbo}", text)
    assert "The VAEs have one, too" in text and "the bounds are 98.0 ± 1.0 (VAE)" in text
    assert "(98.0 ± 0.0 % by averaged weights)" in text
    assert f"Averaged weights have {elbo} (VAE; lower)" in text
    assert "and for the VAE and CVAE by the bound" in text
    assert "VAE, averaged" not in clear_report and "Averaged weights have" not in clear_report


@pytest.mark.parametrize("data, images, said", [
    ("MNIST", "2,000", "2,000 training images of MNIST"),
    ("stand-in digits", "55,000", "55,000 training images of stand-in digits")])
def test_a_small_run_or_stand_ins_are_named_under_the_title_and_in_every_caption(
        tmp_path, pictures, data, images, said):
    metrics = json.loads(json.dumps(METRICS).replace("MNIST, 55,000", f"{data}, {images}"))
    text, _ = built(tmp_path, pictures, metrics)
    assert text.index("Made from less than all of MNIST") < text.index("Abstract")
    captions = re.findall(r"(?:Figure|Table) \d\. .*?(?:\[[^\]]*training images[^\]]*\])", text)
    assert len(captions) == TEMPLATE.count("#figure(") == TEMPLATE.count("#source(") == 9
    assert sum(f"[run on {said}]" in caption for caption in captions) == 5


# ---------------------------------------------------------------- where it cannot be made


def fails(results, capsys, *words):
    """That nothing new is written, and what is said; an earlier report stays."""
    report = results / "report.pdf"
    report.write_bytes(b"earlier")
    assert paper.write_report(results) == 1
    said = capsys.readouterr().err
    assert said.startswith("report.pdf was not written: ") and said.count("\n") == 1
    assert all(word in said for word in words), said
    assert report.read_bytes() == b"earlier"
    assert {path.name for path in results.iterdir()} <= {"report.pdf", "metrics.json", "print"}


def test_without_typst_it_says_what_to_install(results, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    fails(results, capsys, "pip install typst")


def test_a_missing_table_row_figure_or_file_is_named_and_a_damaged_one(results, capsys):
    pytest.importorskip("typst")
    no_row, no_table = copy.deepcopy(METRICS), copy.deepcopy(METRICS)
    del no_row[VAES]["tables"]["elbo"]["rows"]["CVAE"], no_table[VAES]["tables"]["elbo"]
    for found, *words in (
            (json.dumps(no_row), "expected CVAE, KL in the table elbo", "found none"),
            (json.dumps(no_table), f"expected {VAES} / tables / elbo, found none"),
            *((damaged, "damaged file") for damaged in ('{"VAE": ', "", "[]", "3", "{}"))):
        (results / "metrics.json").write_text(found)
        fails(results, capsys, "metrics.json: expected", *words)
    (results / "metrics.json").write_text(json.dumps(METRICS))
    (results / "print" / "gan_probabilities.pdf").unlink()
    fails(results, capsys, "print/gan_probabilities.pdf: expected a figure of the run")
    (results / "metrics.json").unlink()
    fails(results, capsys, "metrics.json: expected it in", "python -m cscm77 makes it")


def test_a_place_that_cannot_be_written_is_named(results, capsys, monkeypatch, full_disk):
    monkeypatch.setattr(paper, "make_report", lambda results: b"%PDF")
    fails(results, capsys, "No space left on device")


# ---------------------------------------------------------------- the commands


def test_the_command_writes_the_report(results, tmp_path, capsys, monkeypatch):
    pytest.importorskip("typst")
    output = tmp_path / "docs" / "my.pdf"
    monkeypatch.setattr(sys, "argv", ["report", str(results), "--output", str(output)])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module("cscm77.report", run_name="__main__")
    assert output.read_bytes().startswith(b"%PDF")
    assert "my.pdf" in capsys.readouterr().out and not (results / "report.pdf").exists()
