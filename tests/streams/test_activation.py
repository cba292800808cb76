"""Another library takes effect at one place of the log: the pipeline in batches does what the oracle does there."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams.activation import CONTROL_KEY, activation
from streams.fingerprint import fingerprint_of
from streams.oracle import Account, Oracle
from streams.pipeline import Pipeline
from streams.ports import Outgoing, RawRecord, StoredTwin
from streams.releases import MissingLibraryError, Releases, load_releases
from tests.streams.logs import ADMISSION, dose, level, logged, regimen, send, ward
from tests.streams.releases import add_release, config_with, other_model, other_policy, stricter
from tests.streams.test_oracle import LIBRARY, Run, batches, check, kinds_of
from twinstate.library import Library
from twinstate.succession import breaches
from twinstate.twin import Twin, TwinDocument


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return config_with(
        tmp_path_factory.mktemp("library") / "config",
        stricter=stricter,
        other=other_model,
        policy=other_policy,
    )


@pytest.fixture(scope="module")
def releases(config: Path) -> Releases:
    return load_releases(config)


def activating(releases: Releases, name: str) -> bytes:
    library = releases.first if name == "first" else releases.others[name]
    return activation(f"to-{name}", "test", library.fingerprint)


def with_changes(log: Sequence[RawRecord], changes: dict[int, bytes]) -> list[RawRecord]:
    """The log with control records before the records of these numbers, offsets given out anew, with holes."""
    values: list[RawRecord] = []
    for n, raw in enumerate([*log, None]):
        if n in changes:
            values.append(RawRecord(0, log[0].append_time, CONTROL_KEY, changes[n], ()))
        if raw is not None:
            values.append(raw)
    return [raw._replace(offset=3 * n + n % 2) for n, raw in enumerate(values)]


def piped(releases: Releases, log: list[RawRecord], seed: int, *, forgetful: bool = False) -> Run:
    """Run a log as a worker does: with another library all stored twins are read, and the store keeps under which."""
    pipeline = Pipeline(releases.first, 0, 1, releases=releases)
    under = pipeline.fingerprint
    stored: dict[str, StoredTwin] = {}
    outgoing: list[Outgoing] = []
    counts: dict[str, int] = {}
    for records in batches(log, seed):
        if forgetful:
            pipeline.forget()
            pipeline.stand_under(under)
        batch = pipeline.decode(records)
        for patient in pipeline.missing(batch, sorted(stored) if pipeline.touches_all(batch) else []):
            pipeline.remember(patient, stored.get(patient))
        outcome = pipeline.update(batch)
        stored.update(outcome.twins)
        under = outcome.fingerprint or under
        outgoing.extend(outcome.outgoing)
        for name, count in outcome.counts.items():
            counts[name] = counts.get(name, 0) + count
    assert under == pipeline.active
    return Run({patient: twin.canonical for patient, twin in stored.items()}, outgoing, counts)


def foretold(releases: Releases, log: list[RawRecord]) -> Account:
    oracle = Oracle(releases.first, 1, releases=releases)
    oracle.read(0, log)
    return oracle.account()


@pytest.mark.parametrize("seed", range(5))
def test_libraries_activated_in_mid_log_give_the_oracles_bytes_in_batches_of_any_size(
    releases: Releases, seed: int
) -> None:
    log = logged(ward(seed))
    places = sorted(random.Random(seed).sample(range(len(log) + 1), 3))
    names = ("stricter", "other", "first")
    log = with_changes(
        log, {place: activating(releases, name) for place, name in zip(places, names, strict=True)}
    )
    account = foretold(releases, log)
    assert account.counts["activated"] == 3
    check(piped(releases, log, seed), account)
    check(piped(releases, log, seed + 1, forgetful=True), account)


def exposed() -> list[RawRecord]:
    """A patient whose exposure lies between the alarms of the two libraries, and a tick after each day."""
    sent = [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "regimen", "r", 0.5, regimen(1.0, 1000.0, 8)),
        *(send("p-1", "dose", f"d{n}", 1.0 + 12 * n, dose(1000.0)) for n in range(4)),
        send("p-1", "lab", "l", 36.5, level(13.0)),
        send("p-1", "tick", "t1", 47.0),
        send("p-1", "tick", "t2", 48.0),
    ]
    return logged(sent)


def test_a_stricter_alarm_is_told_at_its_place_and_taken_back_where_the_first_library_returns(
    releases: Releases,
) -> None:
    before = exposed()
    account = foretold(releases, before)
    assert kinds_of(account) == []  # below the first library's limit all the time
    log = with_changes(before, {7: activating(releases, "stricter"), 8: activating(releases, "first")})
    account = foretold(releases, log)
    run = piped(releases, log, 3)
    check(run, account)
    events = [json.loads(one.value or b"") for one in account.risk[0]]
    told = [(e["type"], e["limit"], e["threshold_version"]) for e in events]
    # What was a mistake is retracted under the limit by which it was raised.
    assert told == [("raised", 450.0, "2"), ("retracted", 450.0, "2")]
    control = [raw.offset for raw in log if raw.key == CONTROL_KEY]
    assert [one.id for one in account.risk[0]] == [f"{offset}-1" for offset in control]
    # Under the first library again, the twin is what it would be had nothing been activated.
    assert run.twins == foretold(releases, before).twins


def test_the_watchdog_hears_of_every_twin_that_an_activation_derives_and_describes(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients = [f"p-{n}" for n in range(12)]
    log = logged([send(patient, "patient", "adm", 0.0, ADMISSION) for patient in patients])
    pipeline = Pipeline(releases.first, 0, 1, releases=releases)
    for patient in patients:
        pipeline.remember(patient, None)
    pipeline.update(pipeline.decode(log))
    happened: list[str] = []
    for work in ("adopt", "describe"):
        one = getattr(Twin, work)

        def noted(*arguments: Any, one: Any = one, work: str = work) -> Any:
            happened.append(work)
            return one(*arguments)

        monkeypatch.setattr(Twin, work, noted)
    control = RawRecord(99, log[0].append_time, CONTROL_KEY, activating(releases, "stricter"), ())
    pipeline.update(pipeline.decode([control]), lambda: happened.append("progress"))
    assert happened == ["progress", *["progress", "adopt"] * 12, *["progress", "describe"] * 12]


class InMemory(Releases):
    """Libraries no folder holds."""

    def __init__(self, first: Library, **others: Library) -> None:
        super().__init__(first)
        self._others = others


def test_a_library_that_looks_back_less_far_forgets_at_its_place_what_the_one_before_still_held() -> None:
    vancomycin = LIBRARY.drugs["vancomycin"]

    def keeping(days: float, fingerprint: str) -> Library:
        drugs = {"vancomycin": replace(vancomycin, keep_h=24.0 * days)}
        return replace(LIBRARY, drugs=drugs, fingerprint=fingerprint * 64)

    releases = InMemory(keeping(30, "a"), shorter=keeping(2, "b"))
    day = 24.0
    sent = [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "dose", "d", 1.0, dose(1000.0)),
        send("p-1", "lab", "l", 12.0, level(13.0)),
        send("p-1", "tick", "t", 100 * day),  # 90 + 30 days have not passed, 90 + 2 have
        send("p-1", "dose", "d", 1.0, dose(1000.0)),
    ]
    before = logged(sent, append_h=200 * day)
    assert foretold(releases, before).counts["duplicate"] == 1
    log = with_changes(before, {4: activating(releases, "shorter")})
    account = foretold(releases, log)
    check(piped(releases, log, 5), account)
    check(piped(releases, log, 6, forgetful=True), account)
    assert account.counts["dead_letters.late"] == 1  # it can no longer be recognised
    document = msgspec.msgpack.decode(account.twins["p-1"], type=TwinDocument)
    assert [entry.kind for entry in document.entries] == ["patient", "tick"]


def test_what_is_in_effect_already_changes_nothing(releases: Releases) -> None:
    before = exposed()
    log = with_changes(before, {4: activating(releases, "first")})
    account = foretold(releases, log)
    check(piped(releases, log, 1), account)
    assert account.counts["duplicate"] == 1
    assert account.twins == foretold(releases, before).twins


def test_a_library_that_may_not_follow_is_a_dead_letter_and_stays_without_effect(releases: Releases) -> None:
    before = exposed()
    log = with_changes(before, {4: activating(releases, "policy"), 6: b"{oops"})
    account = foretold(releases, log)
    run = piped(releases, log, 1)
    check(run, account)
    letters = [dict(one.headers) for one in run.outgoing if one.topic == "dead_letters"]
    assert [letter["twin-error-class"] for letter in letters] == [b"unfit_library", b"not_json"]
    assert b"risk.yaml" in letters[0]["twin-error-message"]
    assert run.twins == foretold(releases, before).twins


def test_a_library_that_is_not_here_stops_the_pipeline_and_names_itself_until_it_is_put_there(
    tmp_path: Path,
) -> None:
    config = config_with(tmp_path / "config")
    pipeline = Pipeline(load_releases(config).first, 0, 1, releases=load_releases(config))
    elsewhere = add_release(tmp_path / "config", "later", stricter)
    wanted = load_releases(config).others["later"].fingerprint
    elsewhere.rename(tmp_path / "away")
    [raw] = with_changes(exposed()[:1], {0: activation("a", "test", wanted)})[:1]
    with pytest.raises(MissingLibraryError, match=wanted):
        pipeline.decode([raw])
    (tmp_path / "away").rename(elsewhere)
    assert pipeline.touches_all(pipeline.decode([raw]))


def test_a_broken_release_beside_them_is_named_and_harms_no_other(tmp_path: Path) -> None:
    config = config_with(tmp_path / "config", stricter=stricter)
    add_release(config, "broken", lambda folder: (folder / "signals.yaml").unlink())
    releases = load_releases(config)
    assert set(releases.others) == {"stricter"}
    assert fingerprint_of(releases.others["stricter"]) in releases.fingerprints()
    with pytest.raises(MissingLibraryError, match=r"broken/signals\.yaml"):
        releases.of_content("0" * 64)


def test_a_record_of_a_patient_can_never_be_taken_for_a_control_record(releases: Releases) -> None:
    # A pseudonym holds no space, so the key alone tells the two apart.
    raw = exposed()[0]._replace(value=activating(releases, "stricter"))
    pipeline = Pipeline(releases.first, 0, 1, releases=releases)
    assert not pipeline.touches_all(pipeline.decode([raw]))


def test_a_library_follows_itself_and_every_release_that_only_changes_parameters(releases: Releases) -> None:
    assert breaches(releases.first, releases.first) == []
    assert breaches(releases.first, releases.others["stricter"]) == []
    assert breaches(releases.first, releases.others["other"]) == []
