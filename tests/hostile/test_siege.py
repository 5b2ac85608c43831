"""One daemon under the whole corpus: it lives, judges each file by name and remedy, and the next good set comes out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns.house import House
from tests.hostile.siege import Siege


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with real work, the plain stack alone, and no more memory than was promised."""
    one = House(tmp_path, standin=False, set__settle_s=0.3, limits__memory_mb=2048)
    one.start()
    one.ready()
    yield one
    one.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_daemon_survives_all_that_is_hostile(house: House) -> None:
    """No death, no verdict missing, no growth beyond 2 GB, no hostile word in a log or report, no file touched."""
    found = Siege(house).run()

    # Everything is dropped at once here and a busy machine judges it in turn; the campaign times each by itself.
    broken = [one for one in found.broken if "judged after" not in one]
    assert not broken, "\n".join(broken)
    assert found.supervisor_bytes < 200 << 20
    assert house.stop()[0] == 0
