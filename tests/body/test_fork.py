"""After a fork both processes go on with what they have: images, sinks, and slabs of their own."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., subprocess.CompletedProcess[str]]

PROLOGUE = """
    import asyncio, gc, os, signal, sys, threading, traceback, warnings
    import penstock
    from penstock import _native

    warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, and that is the point
    folder = sys.argv[1]
    RAM = penstock.Tunables(max_body_ram="64MiB", temp_dir=folder)
    FILE = penstock.Tunables(max_body_ram=0, max_body="2GiB", temp_dir=folder)

    def body(tunables, *pieces):
        with penstock.BodySink(tunables) as sink:
            for piece in pieces:
                sink.write(piece)
            return sink.prepare()

    def both(work):
        "Runs it in parent and child at once; both must succeed, and soon."
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                work("child")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        work("parent")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    A, B, C = (letter * 3_000_001 for letter in (b"a", b"b", b"c"))
"""


@pytest.fixture
def forks(script: Script, tmp_path: Path) -> Callable[[str], str]:
    def run(source: str) -> str:
        done = script(textwrap.dedent(PROLOGUE) + textwrap.dedent(source), str(tmp_path))
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_both_read_images_from_before(forks: Callable[[str], str]) -> None:
    forks("""
        images = [body(RAM, A, B), body(FILE, A, B), body(FILE, A, B).mmap()]
        assert [image.state for image in images] == ["ram", "file", "mmap"]

        def work(who):
            for _ in range(3):
                for image in images:
                    assert bytes(image) == A + B
                    assert b"".join(image.chunks(70_000)) == A + B
                    assert asyncio.run(image.read()) == A + B
            images.clear()
            assert _native.settle(5)

        both(work)
    """)


def test_a_child_that_drops_images_takes_nothing_from_its_parent(forks: Callable[[str], str]) -> None:
    forks("""
        images = [body(RAM, A), body(FILE, A), body(FILE, A).mmap()]
        child = os.fork()
        if child == 0:
            images.clear()
            _native.settle(5)
            others = [body(RAM, B), body(FILE, B), body(FILE, B).mmap()]
            os._exit(0 if all(bytes(other) == B for other in others) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert all(bytes(image) == A for image in images)
    """)


def test_slabs_are_not_shared(forks: Callable[[str], str]) -> None:
    """What one receives into a recycled slab isn't seen by the other."""
    forks("""
        del_me = [body(RAM, bytearray(A)) for _ in range(4)]
        del_me.clear()  # idle slabs, which both would recycle
        assert penstock.stats()["slabs"]["idle"] >= 4 * len(A)

        def work(who):
            letter = b"p" if who == "parent" else b"c"
            for _ in range(5):
                images = [body(RAM, bytearray(letter * 3_000_001)) for _ in range(4)]
                assert all(bytes(image) == letter * 3_000_001 for image in images)

        both(work)
    """)


@pytest.mark.parametrize("tunables", ["RAM", "FILE"])
def test_both_go_on_with_a_sink_from_before(forks: Callable[[str], str], tunables: str) -> None:
    """Each with bytes of its own, in memory or in the file, which the child gets a copy of."""
    forks(f"""
        sink = penstock.BodySink({tunables})
        sink.write(A)
        small = penstock.BodySink({tunables})
        small.write(b"small")

        def work(who):
            more = [B, C] if who == "parent" else [C, B, b"!"]
            for piece in more:
                sink.write(piece)
            small.write(who.encode())
            image, other = sink.prepare(), small.prepare()
            assert bytes(image) == A + b"".join(more)
            assert bytes(other) == b"small" + who.encode()
            if image.state == "file":
                assert bytes(image.mmap()) == A + b"".join(more)

        both(work)
    """)


def test_a_child_neither_names_nor_maps_the_file_that_its_parent_has(forks: Callable[[str], str]) -> None:
    forks("""
        image = body(FILE, A)

        def work(who):
            path = folder + "/" + who
            asyncio.run(image.save(path))
            if who == "child":
                mapped = image.mmap()
                assert mapped.state == "ram"
                os.truncate(path, 10)
            else:
                assert bytes(image) == A

        both(work)
        assert bytes(image) == A
    """)


def test_both_use_the_default_pool_and_asynchronous_sinks(forks: Callable[[str], str]) -> None:
    forks("""
        async def pieces():
            for _ in range(40):
                yield A[:100_000]

        async def main():
            images = await asyncio.gather(*(penstock.collect(pieces(), FILE) for _ in range(4)))
            for image in images:
                assert image.state == "file" and await image.read() == A[:100_000] * 40
                await (await image.to_mmap()).save(folder + f"/{os.getpid()}", overwrite=True)

        asyncio.run(main())
        both(lambda who: asyncio.run(main()))
    """)


def test_a_fork_while_others_work_locks_nobody_out(forks: Callable[[str], str]) -> None:
    """The threads that the child doesn't have may hold locks of slabs, budgets and the reaper."""
    forks("""
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                body(FILE, A)
                body(RAM, bytearray(B))

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    signal.alarm(10)
                    images = [body(FILE, A), body(RAM, bytearray(B)), body(FILE, C).mmap()]
                    good = [bytes(image) for image in images] == [A, B, C]
                    images.clear()
                    os._exit(0 if good and _native.settle(5) else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    """)


def test_after_many_forks_a_child_still_has_a_reaper_and_slabs_of_its_own(forks: Callable[[str], str]) -> None:
    forks("""
        body(FILE, A)
        _native.settle(5)
        for _ in range(150):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                image = body(FILE, A)
                fd = max(int(name) for name in os.listdir("/proc/self/fd"))
                before = penstock.stats()["slabs"]
                del image
                good = _native.settle(5)
                body(RAM, bytearray(A))
                after = penstock.stats()["slabs"]
                os._exit(0 if good and after["mapped"] == before["mapped"] + 1 and after["idle"] > 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """)


def test_children_of_children_have_reapers_that_are_heard(forks: Callable[[str], str]) -> None:
    """In each, what waits lies elsewhere: no wait may be mixed up with one of an ancestor's threads."""
    forks("""
        def descend(generations):
            image = body(FILE, A)
            del image
            assert _native.settle(5)
            if generations:
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    try:
                        descend(generations - 1)
                    except BaseException:
                        traceback.print_exc()
                        os._exit(1)
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        descend(40)
    """)
