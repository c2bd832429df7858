"""The arrows of cscm77/__init__.py: which room imports which, read off the imports themselves."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MODULES = {".".join(path.relative_to(TOP).with_suffix("").parts): path
           for path in [*TOP.glob("*.py"), *TOP.glob("cscm77/**/*.py")]}
GROUND = {"checks", "files", "utils", "grad"}
HEART = {"vae", "gan"}
ALLOWED = {  # room: the rooms it may import from, beside its own and the ground
    "vae": set(), "gan": set(), "data": set(), "training": set(), "measure": {"training"},
    "report": {"measure"}, "cscm77_helper": {*HEART, "training", "report", "measure", "data"},
    "studies": {"cscm77_helper", *HEART, "training", "report", "measure", "data"},
    "__main__": {"report"}, "cscm77": set(),
    "checks": set(), "files": set(), "utils": set(), "grad": set()}


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "cscm77" and len(parts) > 1 else parts[0]


def imports_of(path):
    """The package's modules that a file imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module and node.names[0].name != "*", path
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in MODULES}


ARROWS = {name: imports_of(path) - {name} for name, path in MODULES.items()}


def test_every_room_imports_only_from_below():
    wrong = [f"{name} -> {other}" for name, others in ARROWS.items() for other in others
             if room_of(other) not in {room_of(name), *ALLOWED[room_of(name)], *GROUND}]
    assert not wrong


def test_the_heart_imports_torch_and_the_checks_alone():
    for name in HEART:
        assert ARROWS[name] <= {"cscm77.checks"}
    assert ARROWS["cscm77.checks"] == ARROWS["cscm77.files"] == set()
    assert {other for name in MODULES if room_of(name) == "measure"
            for other in ARROWS[name] if room_of(other) == "training"} <= {
        "cscm77.training.checkpoints"}


def test_no_module_is_in_a_circle():
    def reached(name):
        seen, to_do = set(), [name]
        while to_do:
            new = ARROWS[to_do.pop()] - seen
            seen |= new
            to_do += new
        return seen

    assert [name for name in MODULES if name in reached(name)] == []


def test_nothing_happens_at_import_but_definitions():
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            door = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            assert isinstance(node, allowed) or docstring or door, f"{name}: line {node.lineno}"


def test_a_room_has_at_most_six_modules_and_the_map_names_it():
    rooms = {path.parent for path in TOP.glob("cscm77/*/__init__.py")}
    map_of_rooms = (TOP / "cscm77" / "__init__.py").read_text(encoding="utf-8")
    assert {room.name for room in rooms} == {"data", "training", "measure", "report", "studies"}
    for room in rooms:
        modules = {path.stem for path in room.glob("*.py")} - {"__init__", "__main__"}
        assert len(modules) <= 6, modules
        assert re.search(rf"^    (notebooks, )?{room.name} ", map_of_rooms, re.MULTILINE)


def test_the_top_level_holds_what_the_design_lists():
    names = {path.name for path in TOP.iterdir() if not path.name.startswith(".")}
    assert names - {"results", "MNIST_data", "__pycache__"} == {
        "vae.py", "gan.py", "cscm77_helper.py", "variational_autoencoders.ipynb",
        "generative_adversarial_networks.ipynb", "tests", "requirements.txt", "README.md", "cscm77",
        "docs", "Makefile", "pyproject.toml"}
