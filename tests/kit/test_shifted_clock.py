"""The twin's clock: every function that reads the time is shifted, and everything else is unchanged."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import datetime, time
plain, real = datetime.datetime(2020, 1, 2, 3), time.gmtime()
from forge_consensus.testing.simulator.shifted_clock import shift_clock
shift_clock()
from datetime import date, datetime, timedelta, timezone
import copy, pickle

presents = [
    time.time(), time.time_ns() / 1e9, time.mktime(time.localtime()), time.mktime(time.strptime(time.ctime())),
    time.mktime(time.strptime(time.asctime())), time.clock_gettime(time.CLOCK_REALTIME),
    time.clock_gettime_ns(time.CLOCK_REALTIME) / 1e9, datetime.now().timestamp(), datetime.today().timestamp(),
    datetime.now(timezone.utc).timestamp(), datetime.utcnow().replace(tzinfo=timezone.utc).timestamp(),
]
assert all(later - earlier > 60 for earlier, later in zip(presents, presents[1:])), presents
days = [date.today(), datetime.now().date(), date(*time.gmtime()[:3]), date.fromisoformat(time.strftime("%Y-%m-%d"))]
assert all(day.year > real.tm_year for day in days), days
assert date.today().weekday() != real.tm_wday and time.gmtime().tm_hour != real.tm_hour

assert time.gmtime(0).tm_year == 1970 and time.strftime("%Y", time.gmtime(0)) == "1970"
assert abs(time.clock_gettime(time.CLOCK_MONOTONIC) - time.monotonic()) < 60
made = datetime(2020, 1, 2, 3)
assert made == plain and hash(made) == hash(plain)
assert repr(made) == repr(plain) == "datetime.datetime(2020, 1, 2, 3, 0)"
assert type(made).__name__ == type(plain).__name__
assert isinstance(plain, datetime) and isinstance(datetime.min, datetime) and issubclass(type(plain), datetime)
assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
assert repr(made + timedelta(1)) == "datetime.datetime(2020, 1, 3, 3, 0)"
assert datetime.fromisoformat("2020-01-02T03") == made

class Own(datetime):
    pass

assert isinstance(Own.now(), Own) and isinstance(Own.now(), datetime) and not isinstance(made, Own)
assert repr(Own(2020, 1, 2)) == "Own(2020, 1, 2, 0, 0)"
"""


def test_every_way_to_ask_for_the_present_gives_a_later_one_and_nothing_else_changes() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TZ": "UTC"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.returncode, done.stderr
