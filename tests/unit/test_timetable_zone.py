"""Zones as stretches of time with one offset each."""

from __future__ import annotations

import io
import pickle
import struct
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from taskq.timetable.zone import Zone, zone_named

HOUR = timedelta(hours=1)


def zone_of(*changes: tuple[datetime, int]) -> Zone:
    """A zone with these offsets, in hours, from these instants on; UTC before. In the file format of RFC 8536."""
    times = [(instant - datetime(1970, 1, 1)) // timedelta(seconds=1) for instant, _ in changes]
    offsets = [0, *(hours for _, hours in changes)]
    data = struct.pack(f">{len(times)}q", *times) + bytes(range(1, len(offsets)))
    data += b"".join(struct.pack(">lbb", hours * 3600, 0, 0) for hours in offsets) + b"AAA\0"
    head = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, len(times), len(offsets), 4)
    empty = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb4s", 0, 0, 0, b"AAA\0")
    footer = f"\n<A>{-offsets[-1]}\n".encode()
    return Zone(ZoneInfo.from_file(io.BytesIO(empty + head + data + footer), key="Test/Changes"))


def test_stretches_meet() -> None:
    """A year of Berlin is three stretches without gaps; each knows which hours were skipped or come again."""
    found = []
    for stretch in zone_named("Europe/Berlin").stretches_from(datetime(2026, 1, 1)):
        if stretch.start.year > 2026:
            break
        found.append(stretch)
    winter, summer, autumn = found
    assert winter.start == datetime(2026, 1, 1) and autumn.end == datetime(2027, 1, 1)
    assert winter.end == summer.start == datetime(2026, 3, 29, 1) and summer.end == autumn.start
    assert [stretch.offset for stretch in found] == [HOUR, 2 * HOUR, HOUR]
    assert (summer.skipped_from, summer.first_wall) == (datetime(2026, 3, 29, 2), datetime(2026, 3, 29, 3))
    assert (autumn.first_wall, autumn.shown_until) == (datetime(2026, 10, 25, 2), datetime(2026, 10, 25, 3))
    assert winter.skipped_from is autumn.skipped_from is None


def test_from_the_middle_and_backwards() -> None:
    """The stretch that holds an instant comes first, both ways; its start belongs to it, and its end does not."""
    zone, change = zone_named("Europe/Berlin"), datetime(2026, 3, 29, 1)
    assert next(zone.stretches_from(change)).start == change
    assert next(zone.stretches_from(change - timedelta(seconds=1))).end == change
    back = zone.stretches_until(change)
    assert next(back).start == change and next(back).end == change
    assert next(back).end == datetime(2026, 1, 1)


def test_hours_that_come_again_in_the_new_year() -> None:
    """When clocks are put back shortly before the year ends in UTC, the hours that come again are known after it."""
    # 04:30 of 1 January becomes 02:30, while it is 23:30 of 31 December in UTC.
    zone = zone_of((datetime(2030, 4, 1), 5), (datetime(2030, 12, 31, 23, 30), 3))
    last, first = list(zone.stretches_until(datetime(2031, 1, 1)))[1::-1]
    assert (last.start, last.offset) == (datetime(2030, 12, 31, 23, 30), 3 * HOUR)
    assert (first.start, first.offset) == (datetime(2031, 1, 1), 3 * HOUR)
    assert last.shown_until == first.shown_until == datetime(2031, 1, 1, 4, 30)


def test_change_at_the_turn_of_the_year() -> None:
    """When clocks are put forward with the first second of a year, the skipped hours are the new year's."""
    zone = zone_of((datetime(2031, 1, 1), 2))
    first = next(zone.stretches_from(datetime(2031, 1, 1)))
    assert (first.start, first.offset) == (datetime(2031, 1, 1), 2 * HOUR)
    assert (first.skipped_from, first.first_wall) == (datetime(2031, 1, 1), datetime(2031, 1, 1, 2))
    assert [stretch.offset for stretch in list(zone.stretches_until(datetime(2030, 6, 1)))[:1]] == [0 * HOUR]


def test_changes_on_two_days() -> None:
    """Changes within days of each other are each found, to the second."""
    instants = [datetime(2030, 7, 1, 12, 0, 1), datetime(2030, 7, 2, 13), datetime(2030, 7, 4)]
    zone = zone_of((instants[0], 1), (instants[1], 2), (instants[2], 0))
    found = [stretch for _, stretch in zip(range(4), zone.stretches_from(datetime(2030, 1, 1)), strict=False)]
    assert [stretch.start for stretch in found[1:]] == instants
    assert [stretch.offset // HOUR for stretch in found] == [0, 1, 2, 0]


def test_largest_shift() -> None:
    """Three hours are a change of the clock; more than that is a correction, after which nothing is known."""
    for hours, skipped in ((3, datetime(2031, 4, 10)), (4, None)):
        zone = zone_of((datetime(2031, 4, 10), hours), (datetime(2031, 7, 10), 0))
        summer = next(zone.stretches_from(datetime(2031, 6, 1)))
        winter = next(zone.stretches_from(datetime(2031, 10, 1)))
        assert summer.skipped_from == skipped
        assert (winter.shown_until > winter.first_wall) == (skipped is not None)


def test_one_of_each() -> None:
    """A zone is made once and keeps what it has found; a pickle of it is that same one."""
    assert zone_named("Asia/Tokyo") is zone_named("Asia/Tokyo") is pickle.loads(pickle.dumps(zone_named("Asia/Tokyo")))
