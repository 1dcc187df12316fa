import builtins
import collections
import datetime
import functools
import io
import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from hw_profiles.importers.restricted_pickle import RefusedPickleError, read_pickle


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def protocol_2(module, name):
    """A pickle that only names a global, in the form that dotted names cannot hide in."""
    return f"c{module}\n{name}\n.".encode()


def protocol_4(module, name):
    """The same with STACK_GLOBAL, where pickle follows dots in the name."""
    parts = [bytes([0x8C, len(part)]) + part.encode() for part in (module, name)]
    return b"\x80\x04" + parts[0] + parts[1] + b"\x93."


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_numpy_numbers_are_read(protocol):
    value = {
        "arch": {"bias": True, "heads": [4, 8], "name": "x"}, "none": None, "set": {1, 2}, "pair": (1, 2.5),
        "mean": np.float64(0.1), "half": np.float32(0.5), "count": np.int64(7), "flag": np.bool_(True), "bytes": b"ab",
    }  # fmt: skip
    found = read_pickle(pickle.dumps(value, protocol), "file")
    assert found == value
    assert type(found["mean"]) is float and type(found["count"]) is int and type(found["flag"]) is bool


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([1, 2], ">i4"),
     np.array([], np.float32), np.array([True, False])],
)  # fmt: skip
def test_numpy_arrays_are_read(array, protocol):
    found = read_pickle(pickle.dumps([array], protocol), "file")[0]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_names_of_numpy_before_2_are_read():
    new = pickle.dumps(np.float64(2.5), 4)
    size = new.index(b"numpy._core.multiarray")
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    old = old.replace(new[size - 1 : size], bytes([new[size - 1] - 1]), 1) if new[size - 1] == 22 else old
    frame = old.index(b"\x95")
    old = old[: frame + 1] + (len(old) - frame - 9).to_bytes(8, "little") + old[frame + 9 :]
    pickletools.dis(old, out=io.StringIO())  # it is a well-formed pickle
    assert b"numpy._core" not in old
    assert read_pickle(old, "file") == 2.5


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calls(os.system, "true"), "posix.system"),
        (Calls(builtins.eval, "1"), "builtins.eval"),
        (Calls(builtins.exec, "1"), "builtins.exec"),
        (Calls(builtins.getattr, "x", "upper"), "builtins.getattr"),
        (Calls(builtins.__import__, "os"), "builtins.__import__"),
        (Calls(builtins.open, "/dev/null"), "io.open"),
        (Calls(subprocess.Popen, "true"), "subprocess.Popen"),
        (Calls(functools.partial, print), "functools.partial"),
        (Calls(np.load, "x"), "numpy.load"),
        (datetime.date(2024, 5, 20), "datetime.date"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (bytearray(b"x"), "builtins.bytearray"),
        (slice(1), "builtins.slice"),
        (Exception("x"), "builtins.Exception"),
        (range(3), "builtins.range"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_its_name(value, name):
    data = pickle.dumps({"rows": [value]}, 4)
    with pytest.raises(RefusedPickleError, match=r"results.pkl is refused: it asks for .* could run code") as caught:
        read_pickle(data, "results.pkl")
    assert caught.value.name in (name, name.replace("io.open", "_io.open"), name.replace("posix", "nt"))


@pytest.mark.parametrize("form", [protocol_2, protocol_4])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "eval"),
        ("builtins", "function"), ("builtins", "getattr"),
        ("numpy", "load"), ("numpy", "f2py"), ("numpy.core.multiarray", "fromfile"), ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"), ("operator", "attrgetter"), ("importlib", "import_module"), ("sys", "modules"),
        ("numpy", "dtype.__class__"), ("numpy", "ndarray.tofile"), ("builtins", "set.__class__.__base__"),
        ("hw_profiles.importers.restricted_pickle", "_ALLOWED"), ("hw_profiles.importers.restricted_pickle", "io.open"),
        ("numpy.core.multiarray", "scalar.__globals__"), ("builtins", "complex.__subclasses__"),
    ],
)  # fmt: skip
def test_names_that_lead_to_code_are_refused_in_every_form(module, name, form):
    with pytest.raises(RefusedPickleError) as caught:
        read_pickle(form(module, name), "file")
    assert caught.value.name == f"{module}.{name}"


def test_a_chain_of_getattr_calls_is_refused_at_its_first_link():
    # getattr(getattr(set, "__class__"), "__subclasses__")() -> ..., written by hand as an attacker would
    data = b"cbuiltins\ngetattr\n(cbuiltins\nset\nV__class__\ntR."
    with pytest.raises(RefusedPickleError, match=r"asks for builtins.getattr"):
        read_pickle(data, "file")


def test_persistent_references_are_refused():
    with pytest.raises(RefusedPickleError):
        read_pickle(b"Psome id\n.", "file")


def test_registered_extensions_are_refused_by_name():
    import copyreg

    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(RefusedPickleError, match=r"os\.system"):
            read_pickle(b"\x80\x02\x82\xf0.", "file")
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy.core.multiarray\nscalar\n(NN}tb.",  # BUILD: set attributes of what was found
        b"cnumpy.core.multiarray\nscalar\n(N}V_call\ncbuiltins\nset\nstb.",
        b"cbuiltins\nset\n(N}V__init__\nNstb.",
        b"cnumpy\ndtype\n(N}Vx\nNstb.",
    ],
)
def test_a_file_cannot_change_what_it_is_given(data):
    with pytest.raises(ValueError, match="damaged or no pickle of plain data"):
        read_pickle(data, "file")
    assert read_pickle(pickle.dumps(np.float64(1.5)), "file") == 1.5


@pytest.mark.parametrize(
    "value",
    [np.array([1, "x", None], object), np.array(["a"]), np.array([1 + 2j]), np.datetime64("2024-05-20"),
     np.zeros(2, [("a", "f8"), ("b", "i4")]), np.dtype("f8"), np.void(b"abc")],
)  # fmt: skip
def test_numpy_data_that_is_no_plain_number_is_refused(value):
    with pytest.raises(ValueError, match=r"damaged or no pickle of plain data|is refused"):
        read_pickle(pickle.dumps([value]), "file")


def test_functions_themselves_are_no_data():
    with pytest.raises(ValueError, match="is no plain data"):
        read_pickle(b"cnumpy.core.multiarray\nscalar\n.", "file")


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(list(range(99)))[:-9], b"\x80\x04]\x94h\x07."])
def test_a_damaged_file_is_named(data):
    with pytest.raises(ValueError, match=r"results.pkl is damaged or no pickle"):
        read_pickle(data, "results.pkl")


def test_a_small_file_cannot_grow_without_bound():
    value = ["x"]
    for _ in range(60):
        value = [value, value]  # 2 ** 60 leaves, if every reference were followed
    found = read_pickle(pickle.dumps(value), "file")
    assert found[0] is found[1]


def test_a_list_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="RecursionError"):
        read_pickle(pickle.dumps(value), "file")
