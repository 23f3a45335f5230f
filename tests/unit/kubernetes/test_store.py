"""The store: the newer version wins, what is gone stays gone, and no end of a worker is missed."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.backends.kubernetes.kinds import JOBS, PODS, RUNS
from finetune_operator.backends.kubernetes.store import RunKey, Store
from support import kube_objects as objects

KEY = RunKey("team", "huanhuan")


def test_only_a_newer_version_is_news() -> None:
    store = Store()
    assert store.put(JOBS, objects.job(meta={"version": 5}))
    assert not store.put(JOBS, objects.job(meta={"version": 5}))
    assert not store.put(JOBS, objects.job(meta={"version": 4}))
    assert store.put(JOBS, objects.job(meta={"version": 6}))
    assert [job["metadata"]["resourceVersion"] for job in store.children(JOBS, KEY)] == ["6"]


def test_what_is_gone_is_not_brought_back_by_an_event_or_list_on_its_way() -> None:
    store, job = Store(), objects.job()
    store.put(JOBS, job)
    assert store.remove(JOBS, job)
    assert not store.put(JOBS, job)
    assert not store.remove(JOBS, job)
    assert not store.is_news(JOBS, job)
    assert store.children(JOBS, KEY) == ()


def test_a_list_finds_what_the_watch_has_missed_and_spares_what_is_newer_than_the_list() -> None:
    store = Store()
    store.put(JOBS, objects.job(1, meta={"version": 5}))
    store.put(JOBS, objects.job(2, meta={"version": 50}))
    store.put(JOBS, objects.job(3, meta={"version": 6}))
    assert store.keep_listed(JOBS, {"uid-of-huanhuan-r3"}, 10, None) == {KEY}
    assert sorted(job["metadata"]["name"] for job in store.children(JOBS, KEY)) == ["huanhuan-r2", "huanhuan-r3"]


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    store = Store()
    store.put(JOBS, objects.job(1, meta={"version": 5}))
    assert store.keep_listed(JOBS, set(), 10, "elsewhere") == set()
    assert len(store.children(JOBS, KEY)) == 1


def test_a_namesake_made_anew_is_another_object() -> None:
    store = Store()
    old, new = objects.job(meta={"uid": "old", "version": 5}), objects.job(meta={"uid": "new", "version": 9})
    store.put(JOBS, old)
    store.put(JOBS, new)
    store.remove(JOBS, old)
    assert [job["metadata"]["uid"] for job in store.children(JOBS, KEY)] == ["new"]


def test_the_end_of_a_worker_that_went_is_shown_until_a_pass_has_seen_it() -> None:
    store = Store()
    store.put(PODS, objects.pod(phase="Running", container={"running": {}}))
    ended = objects.pod(phase="Failed", container=objects.terminated(75, "saved"))
    store.remove(PODS, ended)
    assert [pod["metadata"]["uid"] for pod in store.departed(KEY)] == [ended["metadata"]["uid"]]
    assert store.told(KEY, store.ended_pods(KEY))
    assert store.departed(KEY) == ()


def test_an_end_that_a_pass_has_seen_is_not_shown_again() -> None:
    store, ended = Store(), objects.pod(phase="Failed", container=objects.terminated(1))
    store.put(PODS, ended)
    assert not store.told(KEY, store.ended_pods(KEY))
    store.remove(PODS, ended)
    assert store.departed(KEY) == ()


def test_an_end_that_comes_during_a_pass_is_kept_for_the_next() -> None:
    store = Store()
    seen = store.ended_pods(KEY)
    store.remove(PODS, objects.pod(phase="Failed", container=objects.terminated(1)))
    assert not store.told(KEY, seen)
    assert len(store.departed(KEY)) == 1


def test_a_pod_that_went_without_a_word_is_simply_gone() -> None:
    store = Store()
    store.remove(PODS, objects.pod(phase="Running", container={"running": {}}))
    assert store.departed(KEY) == ()


def test_objects_of_others_are_none_of_its_business() -> None:
    store = Store()
    stranger = {"metadata": {"name": "x", "namespace": "team", "uid": "x", "resourceVersion": "1"}}
    assert not store.put(PODS, stranger)
    assert not store.remove(PODS, stranger)
    assert store.put(RUNS, stranger)
    assert store.runs() == (RunKey("team", "x"),)


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(0, 12))
def test_the_order_in_which_news_arrives_does_not_matter(versions: list[int], deletion_at: int) -> None:
    """Versions of one Job in any order and number, and its deletion anywhere among them: it is gone."""
    store = Store()
    for index, version in enumerate(versions):
        if index == deletion_at:
            store.remove(JOBS, objects.job(meta={"version": 7}))
        store.put(JOBS, objects.job(meta={"version": version}))
    store.remove(JOBS, objects.job(meta={"version": 7}))
    assert store.children(JOBS, KEY) == ()
