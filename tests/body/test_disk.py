"""Where disk and descriptors end: full file systems, limits on files, budgets, and processes that are killed."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import _native

MakeTunables = Callable[..., penstock.Tunables]
Script = Callable[..., subprocess.CompletedProcess[str]]

MiB = 1 << 20


def run(script: Script, source: str, *args: str) -> str:
    done = script(textwrap.dedent(source), *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Nothing is left behind


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    source = """
        import signal, sys, penstock
        sink = penstock.BodySink(penstock.Tunables(max_body_ram=0, temp_dir=sys.argv[1]))
        for _ in range(32):
            sink.write(bytes(1 << 20))
        image = penstock.BodySink(penstock.Tunables(max_body_ram=0, temp_dir=sys.argv[1]))
        image.write(bytes(1 << 20))
        image = image.prepare()
        print("spilled", flush=True)
        signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(source), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"spilled\n"
            links = list(Path(f"/proc/{process.pid}/fd").iterdir())
            sizes = [os.stat(link).st_size for link in links if os.readlink(link).startswith(str(tmp_path))]
        finally:
            process.send_signal(signal.SIGKILL)
    assert sorted(sizes) == [MiB, 32 * MiB]
    assert list(tmp_path.iterdir()) == []


# A full file system

ON_8_MIB = """
    import asyncio, os, sys
    import penstock
    from penstock import _native

    dir = sys.argv[1]
    tunables = penstock.Tunables(max_body_ram="64KiB", temp_dir=dir)
    # A tmpfs counts as memory, and its own limit is what is to be met here.
    budget = penstock.Budget(ram="1GiB")

    def free():
        fs = os.statvfs(dir)
        return fs.f_bavail * fs.f_frsize

    def descriptors():
        return len(os.listdir("/proc/self/fd"))
"""


@pytest.fixture
def on_8_mib(tmp_path: Path) -> Callable[[str], str]:
    """Runs a program in a mount namespace of its own, with its first argument a file system of 8 MiB."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o "size=8m,huge=$4" none "$1"'
    if shutil.which("unshare") is None:
        pytest.skip("unshare(1) is not installed")
    tried = subprocess.run(
        [*unshare, "sh", "-c", mount, "sh", tmp_path, "", "", "never"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"no mounts in a user namespace: {tried.stderr.strip()}")

    def run(source: str, huge: str = "never") -> str:
        program = textwrap.dedent(ON_8_MIB) + textwrap.dedent(source)
        shell = f'{mount} && exec "$2" -W error -c "$3" "$1"'
        command = [*unshare, "sh", "-c", shell, "sh", str(tmp_path), sys.executable, program, huge]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.needs_mount
def test_a_full_file_system_is_storage_full_and_gives_all_back(on_8_mib: Callable[[str], str]) -> None:
    on_8_mib("""
        before, whole = descriptors(), free()
        assert whole == 8 << 20
        with penstock.BodySink(tunables, budget=budget) as sink:
            try:
                for _ in range(16):
                    sink.write(bytes(1 << 20))
            except penstock.StorageFull as error:
                assert error.errno == 28 and dir in str(error), error
            else:
                raise AssertionError("it was stored")
            # Nothing is lost, but nothing can be made of it either.
            try:
                sink.prepare()
            except penstock.StorageFull:
                pass
        del sink
        _native.settle(5)
        assert (descriptors(), free()) == (before, whole)
        assert {what: meter["used"] for what, meter in budget.stats().items()} == {"ram": 0, "disk": 0, "files": 0}
        assert penstock.stats()["slabs"]["unwritten"] == 0
        # And there is room for the next.
        with penstock.BodySink(tunables, budget=budget) as sink:
            sink.write(bytes(4 << 20))
            assert len(sink.prepare()) == 4 << 20
    """)


@pytest.mark.needs_mount
@pytest.mark.parametrize("policy", ["None", "penstock.Direct()", "penstock.Permit(penstock.Semaphore(1))"])
def test_the_loop_goes_on_after_storage_full(on_8_mib: Callable[[str], str], policy: str) -> None:
    on_8_mib(f"""
        async def pieces(size):
            for _ in range(size >> 16):
                yield bytes(1 << 16)

        async def main():
            await penstock.collect(pieces(1 << 20), tunables, budget=budget, policy={policy})
            _native.settle(5)
            before, whole = descriptors(), free()
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.001)

            ticker = asyncio.create_task(tick())
            collected = [
                penstock.collect(pieces(6 << 20), tunables, budget=budget, policy={policy}) for _ in range(4)
            ]
            found = await asyncio.gather(*collected, return_exceptions=True)
            full = [each for each in found if isinstance(each, penstock.StorageFull)]
            assert len(full) >= 3 and len(full) + sum(isinstance(each, penstock.BodyImage) for each in found) == 4
            del found, full
            await asyncio.sleep(0.01)
            assert ticks > 1
            ticker.cancel()
            await asyncio.to_thread(_native.settle, 5)
            assert (descriptors(), free()) == (before, whole), (descriptors(), free(), before, whole)
            image = await penstock.collect(pieces(4 << 20), tunables, budget=budget, policy={policy})
            assert (image.state, len(image)) == ("file", 4 << 20)

        asyncio.run(main())
    """)


@pytest.mark.needs_mount
def test_saving_to_a_full_file_system_leaves_nothing_there(on_8_mib: Callable[[str], str]) -> None:
    on_8_mib("""
        async def main():
            image = penstock.BodyImage.from_bytes(bytes(9 << 20))
            try:
                await image.save(dir + "/name")
            except penstock.StorageFull as error:
                assert error.filename == dir + "/name" and "temp_dir" not in str(error), error
            else:
                raise AssertionError("it was saved")
            assert os.listdir(dir) == [] and free() == 8 << 20
            await penstock.BodyImage.from_bytes(b"small").save(dir + "/name")

        asyncio.run(main())
    """)


def test_a_limit_on_the_size_of_files_is_storage_full(script: Script, tmp_path: Path) -> None:
    run(
        script,
        """
        import resource, signal, sys, penstock
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with penstock.BodySink(penstock.Tunables(max_body_ram=0, temp_dir=sys.argv[1])) as sink:
            try:
                sink.write(bytes(3 << 20))
            except penstock.StorageFull as error:
                assert error.errno == 27, error
            else:
                raise AssertionError("it was stored")
        with penstock.BodySink(penstock.Tunables(max_body_ram=0, temp_dir=sys.argv[1])) as sink:
            sink.write(bytes(1 << 20))
            assert len(sink.prepare()) == 1 << 20
        """,
        str(tmp_path),
    )


# Budgets


def used(budget: penstock.Budget) -> dict[str, Any]:
    return {name: meter["used"] for name, meter in budget.stats().items()}


def test_disk_over_the_budget_names_it_and_keeps_the_body(tunables: MakeTunables) -> None:
    budget = penstock.Budget(disk="1MiB")
    with penstock.BodySink(tunables(max_body_ram=0), budget=budget) as sink:
        sink.write(bytes(MiB))
        with pytest.raises(penstock.BudgetExceeded, match=r"disk.*Budget.disk") as caught:
            sink.write(bytes(MiB))
        assert (caught.value.resource, caught.value.limit) == ("disk", MiB)
        assert len(sink) == 2 * MiB
    _native.settle(5)
    assert used(budget) == {"ram": 0, "disk": 0, "files": 0}


def test_room_that_comes_free_is_used_by_the_next_try(tunables: MakeTunables, body: bytes) -> None:
    budget = penstock.Budget(disk="1MiB")
    with penstock.BodySink(tunables(max_body_ram=0), budget=budget) as first:
        first.write(bytes(MiB))
        with penstock.BodySink(tunables(max_body_ram=0), budget=budget) as second:
            second.write(body)
            with pytest.raises(penstock.BudgetExceeded):
                second.prepare()
            first.close()
            _native.settle(5)
            image = second.prepare()
    assert bytes(image) == body


@pytest.mark.asyncio
async def test_disk_over_the_budget_is_an_error_of_collect_and_gives_all_back(
    tunables: MakeTunables, policy: Any
) -> None:
    async def pieces() -> Any:
        for _ in range(64):
            yield bytes(65536)

    budget = penstock.Budget(disk="1MiB")
    with pytest.raises(penstock.BudgetExceeded, match=r"Budget\.disk"):
        await penstock.collect(pieces(), tunables(max_body_ram=0), budget=budget, policy=policy)
    await asyncio.to_thread(_native.settle, 5)
    assert used(budget) == {"ram": 0, "disk": 0, "files": 0}
    assert penstock.stats()["slabs"]["unwritten"] == 0


def test_descriptors_are_counted_and_given_back(tunables: MakeTunables, descriptors: Callable[[], int]) -> None:
    budget = penstock.Budget(files=2)
    before = descriptors()

    def spilled() -> penstock.BodyImage:
        with penstock.BodySink(tunables(max_body_ram=0), budget=budget) as sink:
            sink.write(b"x")
            return sink.prepare()

    images = [spilled(), spilled()]
    with pytest.raises(penstock.BudgetExceeded, match=r"Budget\.files") as caught:
        spilled()
    assert caught.value.resource == "files"
    assert descriptors() == before + 2
    images.pop()
    images.append(spilled())
    images.clear()
    assert used(budget)["files"] == 0
    assert descriptors() == before


def test_3_000_spilled_bodies_leave_descriptors_for_the_rest_of_the_program(script: Script, tmp_path: Path) -> None:
    """With at most 1024 open files, half are for bodies: the next gets BudgetExceeded, and nobody else EMFILE."""
    out = run(
        script,
        """
        import asyncio, os, resource, socket, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        import penstock

        tunables = penstock.Tunables(max_body_ram=0, temp_dir=sys.argv[1])

        async def pieces():
            yield b"spilled"

        async def elsewhere():
            # The rest of the program, which knows nothing of budgets.
            opened = []
            try:
                for _ in range(100):
                    opened += [open("/dev/null"), *socket.socketpair()]
                    await asyncio.sleep(0)
            finally:
                for each in opened:
                    each.close()

        async def main():
            images, refused = [], 0
            for start in range(0, 3000, 50):
                _, *found = await asyncio.gather(
                    elsewhere(), *(penstock.collect(pieces(), tunables) for _ in range(50)), return_exceptions=True
                )
                assert _ is None, _
                for each in found:
                    if isinstance(each, penstock.BodyImage):
                        images.append(each)
                    else:
                        assert isinstance(each, penstock.BudgetExceeded) and each.resource == "files", each
                        refused += 1
            print(len(images), refused)
            del images[:100], each, found
            image = await penstock.collect(pieces(), tunables)
            assert image.state == "file" and await image.read() == b"spilled"

        asyncio.run(main())
        """,
        str(tmp_path),
    )
    assert out.split() == ["512", "2488"]


@pytest.mark.asyncio
async def test_a_response_waits_for_a_descriptor_that_comes_free(tunables: MakeTunables) -> None:
    """A budget of one file: the second response is complete once the first body is gone."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n" + bytes(1_000_000))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    budget = penstock.Budget(files=1)
    async with server, penstock.Client(tunables=tunables(max_body_ram=0), budget=budget) as client:
        first = await client.get(url)
        second = asyncio.create_task(client.get(url))
        await asyncio.sleep(0.2)
        assert not second.done()
        del first
        assert len((await second).body) == 1_000_000


@pytest.mark.asyncio
async def test_more_bodies_at_once_than_descriptors_all_arrive(tunables: MakeTunables) -> None:
    """A body that is drained takes two: none may hold one and wait for the other."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n")
        for _ in range(10):
            writer.write(bytes(100_000))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    budget = penstock.Budget(files=3)
    async with server, penstock.Client(tunables=tunables(max_body_ram=0), budget=budget) as client:

        async def one() -> int:
            return len((await client.get(url)).body)

        assert await asyncio.gather(*(one() for _ in range(12))) == [1_000_000] * 12
    await asyncio.to_thread(_native.settle, 5)
    assert used(budget) == {"ram": 0, "disk": 0, "files": 0}


# A file system that is memory


def test_a_body_on_a_tmpfs_counts_as_memory_by_the_blocks_it_uses(tunables: MakeTunables, shm: Path) -> None:
    budget = penstock.Budget(ram="64MiB")
    with penstock.BodySink(tunables(max_body_ram=0, temp_dir=shm), budget=budget) as sink:
        sink.write(bytes(5_000_001))
        image = sink.prepare()
    blocks = used(budget)["ram"]
    # Whole pages, or huge ones where the mount has them.
    assert blocks % 4096 == 0
    assert 5_000_001 <= blocks <= 6 * MiB
    assert used(budget)["disk"] == 0
    del image
    _native.settle(5)
    assert used(budget)["ram"] == 0


def test_a_tmpfs_over_the_budget_of_memory_is_refused(tunables: MakeTunables, shm: Path) -> None:
    budget = penstock.Budget(ram="1MiB")
    with penstock.BodySink(tunables(max_body_ram=0, temp_dir=shm), budget=budget) as sink:
        sink.write(bytes(MiB))
        with pytest.raises(penstock.BudgetExceeded, match=r"Budget\.ram"):
            sink.write(bytes(MiB))


def test_what_a_tmpfs_takes_counts_though_it_is_over_the_budget(tunables: MakeTunables, shm: Path) -> None:
    """A body of a byte takes a page, and budget for a byte is no budget for another page."""
    budget = penstock.Budget(ram=6000)
    images = []

    def spilled() -> penstock.BodyImage:
        with penstock.BodySink(tunables(max_body_ram=0, temp_dir=shm), budget=budget) as sink:
            sink.write(b"x")
            return sink.prepare()

    with pytest.raises(penstock.BudgetExceeded, match=r"Budget\.ram"):  # noqa: PT012
        while len(images) < 10:
            images.append(spilled())
    assert used(budget)["ram"] >= 4096 * len(images) >= 4096
    images.clear()
    assert used(budget)["ram"] == 0


def test_the_default_folder_for_bodies_is_no_tmpfs(script: Script, tmp_path: Path, shm: Path) -> None:
    source = "import os; os.environ['PENSTOCK_TMPDIR'], os.environ['TMPDIR'] = {!r}, {!r}; {}"
    show = "from penstock import _native; print(_native.default_temp_dir())"
    assert run(script, source.format(str(shm), str(tmp_path), show)).strip() == str(tmp_path)
    assert run(script, source.format(str(tmp_path), str(shm), show)).strip() == str(tmp_path)


def test_the_default_folder_for_bodies_can_be_written_to(script: Script) -> None:
    source = """
        import os
        os.environ["PENSTOCK_TMPDIR"] = os.environ["TMPDIR"] = "/usr"
        from penstock import BodySink
        if os.getuid() == 0:  # who may write anywhere
            os.setuid(65534)
        with BodySink() as sink:
            sink.write(b"x")
            sink.write_back()
            print(sink.state, bytes(sink.prepare()))
    """
    assert run(script, source).strip() == "file b'x'"


def test_what_no_file_can_be_made_for_is_an_error_of_its_own(tmp_path: Path) -> None:
    """Not a full disk and not a budget: the program itself has used up its descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    sink = penstock.BodySink(penstock.Tunables(max_body_ram=0, temp_dir=tmp_path))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
        with pytest.raises(OSError, match="open files"):  # noqa: PT012
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        sink.write(b"kept")
        with pytest.raises(OSError, match="open files") as caught:
            sink.prepare()
        assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)
    with sink:
        assert bytes(sink.prepare()) == b"kept"


@pytest.mark.needs_mount
@pytest.mark.parametrize(("huge", "page"), [("always", 2 << 20), ("within_size", 4096)])
def test_what_a_tmpfs_takes_in_huge_pages_counts_whole(on_8_mib: Callable[..., str], huge: str, page: int) -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("not on this platform: a kernel without huge pages")
    said = on_8_mib(
        """
        before = free()
        for size in (1, (2 << 20) + 1):
            with penstock.BodySink(tunables.replace(max_body_ram=0), budget=budget) as sink:
                sink.write(bytes(size))
                image = sink.prepare()
            print(before - free(), budget.stats()["ram"]["used"])
            del image, sink
            _native.settle(5)
        """,
        huge,
    )
    taken, counted = ([int(figure) for figure in said.split()[which::2]] for which in (0, 1))
    assert counted == [page, (2 << 20) + page]
    # A kernel whose memory is in pieces gives small pages in place of a huge one.
    assert all(0 < least <= most for least, most in zip(taken, counted, strict=True))
