"""The names of the package, and what importing it costs."""

import subprocess
import sys

import pytest

import rayqueue


def fresh(code: str) -> str:
    """Runs code in a new interpreter that finds this checkout as we do."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_every_public_name_is_there():
    # In a process of its own: some of them import Ray, which a unit test may not.
    code = "import rayqueue; print([name for name in rayqueue.__all__ if getattr(rayqueue, name) is None])"
    assert fresh(code) == "[]"


def test_offsets_by_name_and_what_is_found_by_time():
    assert (rayqueue.OFFSET_BEGINNING, rayqueue.OFFSET_END) == (-2, -1)
    assert rayqueue.OffsetAndTimestamp(5, 7).offset == 5


def test_all_is_sorted_constants_first_and_without_doubles():
    assert sorted(set(rayqueue.__all__), key=lambda name: (not name.isupper(), name)) == rayqueue.__all__


def test_importing_it_imports_nothing_heavy():
    code = "import sys, rayqueue; print([m for m in ('ray', 'pyarrow', 'numpy', 'pandas') if m in sys.modules])"
    assert fresh(code) == "[]"


def test_the_clients_import_no_ray():
    code = (
        "import sys, rayqueue; rayqueue.Producer, rayqueue.Consumer, rayqueue.AdminClient; print('ray' in sys.modules)"
    )
    assert fresh(code) == "False"


def test_the_command_line_imports_neither_ray_nor_arrow():
    code = "import sys, rayqueue.cli.main; print([m for m in ('ray', 'pyarrow', 'pandas', 'rich') if m in sys.modules])"
    assert fresh(code) == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        rayqueue.no_such_name  # noqa: B018


def test_dir_has_the_lazy_names():
    assert {"AdminClient", "start", "testing"} <= set(dir(rayqueue))


def test_the_actors_are_found_in_a_checkout():
    assert fresh("import rayqueue.actors.driver as d; print(d.__name__)") == "rayqueue.actors.driver"
