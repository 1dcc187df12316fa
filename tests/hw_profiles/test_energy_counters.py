import sys
import types

import pytest

from hw_profiles import counters
from hw_profiles.counters import MeterUnavailable, NvmlCounter, RaplCounter, check_measurable, rapl_packages
from hw_profiles.device import Device

CPU = Device("cpu-1t", "cpu", "cpu", 1, {})
GPU = Device("gpu", "cuda", "cuda:1", 1, {"device_uuid": "abc", "device_index": 1})


@pytest.fixture
def powercap(tmp_path):
    """Two packages, a sub-zone of one of them, and the platform zone."""
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1"), ("intel-rapl:0:0", "core"),
                       ("intel-rapl:2", "psys")):  # fmt: skip
        zone = tmp_path / name
        zone.mkdir()
        (zone / "name").write_text(f"{kind}\n")
        (zone / "energy_uj").write_text("1000\n")
        (zone / "max_energy_range_uj").write_text("10000\n")
    return tmp_path


def test_rapl_adds_packages_and_not_their_parts(powercap):
    assert [zone.name for zone in rapl_packages(powercap)] == ["intel-rapl:0", "intel-rapl:1"]
    counter = RaplCounter(powercap)
    assert counter.read_mj() == 0
    (powercap / "intel-rapl:0/energy_uj").write_text("3000")
    (powercap / "intel-rapl:1/energy_uj").write_text("1500")
    (powercap / "intel-rapl:0:0/energy_uj").write_text("9000")
    assert counter.read_mj() == 2.5


def test_rapl_goes_on_after_a_wrap_around(powercap):
    counter = RaplCounter(powercap)
    (powercap / "intel-rapl:0/energy_uj").write_text("9000")
    counter.read_mj()
    (powercap / "intel-rapl:0/energy_uj").write_text("500")  # 1000 up to the range of 10000, and 500
    assert counter.read_mj() == 9.5


def test_no_rapl_is_said_by_name(tmp_path):
    with pytest.raises(MeterUnavailable, match=r"energy_mj cannot be measured here: .*RAPL"):
        RaplCounter(tmp_path / "nothing")


def test_rapl_that_may_not_be_read_is_said_by_name_and_path(powercap):
    (powercap / "intel-rapl:0/energy_uj").unlink()
    (powercap / "intel-rapl:0/energy_uj").mkdir()  # any OSError will do; a root user may read everything
    with pytest.raises(MeterUnavailable, match=r"energy_mj .*intel-rapl:0/energy_uj may not be read"):
        RaplCounter(powercap)


class NVMLError(Exception):
    pass


def fake_nvml(monkeypatch, *, energy=1234):
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda uuid: ("handle", uuid)

    def read(handle):
        if energy is None:
            raise NVMLError("Not Supported")
        assert handle == ("handle", "GPU-abc")
        return energy

    module.nvmlDeviceGetTotalEnergyConsumption = read
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_nvml_reads_the_board_with_the_devices_uuid(monkeypatch):
    fake_nvml(monkeypatch)
    assert NvmlCounter(GPU).read_mj() == 1234.0


def test_a_gpu_without_the_counter_is_said_by_name(monkeypatch):
    fake_nvml(monkeypatch, energy=None)
    with pytest.raises(MeterUnavailable, match="energy_mj cannot be measured here: NVML: Not Supported"):
        NvmlCounter(GPU)


def test_missing_nvml_bindings_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterUnavailable, match="pip install nvidia-ml-py"):
        NvmlCounter(GPU)


def test_energy_is_checked_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(counters, "rapl_packages", lambda root: [])
    check_measurable(["latency_ms", "n_params"], CPU)
    with pytest.raises(MeterUnavailable, match="energy_mj"):
        check_measurable(["latency_ms", "energy_mj"], CPU)


def test_memory_where_linux_does_not_tell_is_said_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(counters, "PROC_STATUS", tmp_path / "status")
    with pytest.raises(MeterUnavailable, match="memory_mib cannot be measured here"):
        check_measurable(["memory_mib"], CPU)


@pytest.mark.parametrize("metrics", [["perplexity"], ["latency"], []])
def test_what_profile_does_not_measure_is_refused(metrics):
    with pytest.raises(ValueError, match=r"cannot profile .*; allowed: latency_ms"):
        check_measurable(metrics, CPU)
