"""`image.save`: the body under a name, without a copy where that can be, and never half of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import penstock
import pytest

from tests.conftest import check_traced

MakeImage = Callable[..., penstock.BodyImage]

pytestmark = pytest.mark.asyncio


def inode_of(folder: Path) -> tuple[int, os.stat_result]:
    """Of the only nameless file in a folder that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        link = f"/proc/self/fd/{name}"
        if os.path.islink(link) and os.readlink(link).startswith(f"{folder}/#"):
            status = os.stat(link)
            found.append((status.st_ino, status))
    assert len(found) == 1
    return found[0]


async def test_a_body_in_a_file_is_named_without_a_copy(image_in: MakeImage, tmp_path: Path, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, "file")
    inode, before = inode_of(tmp_path)
    assert before.st_nlink == 0
    await image.save(tmp_path / "name")
    after = os.stat(tmp_path / "name")
    assert (after.st_ino, after.st_nlink, after.st_size) == (inode, 1, len(body))
    assert await image.read() == body


async def test_no_draft_is_left_beside_it(image_in: MakeImage, store: str, tmp_path: Path, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    await image.save(tmp_path / "first")
    await image.save(tmp_path / "second", fsync=True)
    await image.save(tmp_path / "second", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


DRAFTS = """
    import asyncio, os, sys, penstock

    folder = sys.argv[1]
    left = [f"{folder}/.name.{os.getpid()}-{count}.part" for count in range(8)]
    for draft in left:
        open(draft, "w").close()
    asyncio.run(penstock.BodyImage.from_bytes(b"body").save(folder + "/name", overwrite=True))
    assert sorted(os.listdir(folder)) == sorted(["name", *map(os.path.basename, left)])
"""


async def test_what_a_killed_process_of_the_same_number_left_is_not_in_the_way(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = await asyncio.to_thread(script, textwrap.dedent(DRAFTS), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "name").read_bytes() == b"body"


@pytest.mark.parametrize("letter", ["n", "é", "🐧"])
async def test_a_name_may_be_as_long_as_names_can_be(
    image_in: MakeImage, store: str, tmp_path: Path, body: bytes, letter: str
) -> None:
    name = letter * (255 // len(letter.encode()))
    image = await asyncio.to_thread(image_in, body, store)
    await image.save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == body


async def test_it_is_saved_across_file_systems(
    image_in: MakeImage, store: str, tmp_path: Path, shm: Path, body: bytes
) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    if os.stat(shm).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    await image.save(shm / "name")
    assert (shm / "name").read_bytes() == body
    assert os.stat(shm / "name").st_nlink == 1
    assert await image.read() == body


async def test_a_file_that_others_wrote_to_is_saved_as_long_as_the_body_is(tmp_path: Path, body: bytes) -> None:
    """Whether the file system copies or shares the blocks."""
    source = tmp_path / "source"
    source.write_bytes(body)
    image = await asyncio.to_thread(penstock.BodyImage.from_path, source)
    with source.open("ab") as file:
        file.write(b"more")
    await image.save(tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == body
    os.truncate(source, 500)
    with pytest.raises(penstock.Truncated) as raised:
        await image.save(tmp_path / "cut")
    assert (raised.value.received, raised.value.expected) == (500, len(body))
    assert sorted(os.listdir(tmp_path)) == ["name", "source"]


async def test_its_mode_is_that_of_any_new_file(image_in: MakeImage, store: str, tmp_path: Path, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            # The mask is the process's, so it counts on the pool's threads too.
            await image.save(tmp_path / f"{mask:o}")
            (tmp_path / "like it").touch()
        finally:
            os.umask(before)
        assert os.stat(tmp_path / f"{mask:o}").st_mode == os.stat(tmp_path / "like it").st_mode
        (tmp_path / "like it").unlink()


async def test_overwriting_is_atomic(image_in: MakeImage, store: str, tmp_path: Path, body: bytes) -> None:
    """Who opens the name sees one body or the other, and who had it open keeps the old one."""
    target = tmp_path / "name"
    target.write_bytes(b"old")
    images = [await asyncio.to_thread(image_in, bytes([65 + index]) * 200_000, store) for index in range(4)]
    done = False
    seen = set()

    def look() -> None:
        while not done:
            content = target.read_bytes()
            seen.add((len(content), *set(content)) if len(content) != 3 else content)

    looking = asyncio.create_task(asyncio.to_thread(look))
    with target.open("rb") as old:
        for _ in range(5):
            for image in images:
                await image.save(target, overwrite=True)
        done = True
        await looking
        assert old.read() == b"old"
    assert seen <= {b"old", *((200_000, 65 + index) for index in range(4))}
    assert os.listdir(tmp_path) == ["name"]


async def test_of_many_saves_to_one_name_one_wins(image_in: MakeImage, store: str, tmp_path: Path) -> None:
    images = [await asyncio.to_thread(image_in, bytes([index]) * 1000, store) for index in range(16)]
    saves = (image.save(tmp_path / "name") for image in images)
    found = await asyncio.gather(*saves, return_exceptions=True)
    assert sum(isinstance(each, FileExistsError) for each in found) == 15
    winner = found.index(None)
    assert (tmp_path / "name").read_bytes() == bytes([winner]) * 1000
    assert os.listdir(tmp_path) == ["name"]


async def test_a_saved_body_is_not_mapped_but_read(image_in: MakeImage, tmp_path: Path, body: bytes) -> None:
    """Whoever has the name can cut the file, and reading a mapping behind its end would kill the process."""
    image = await asyncio.to_thread(image_in, body, "file")
    await image.save(tmp_path / "name")
    inner = await image.to_mmap()
    assert inner.state == "ram"
    os.truncate(tmp_path / "name", 10)
    assert await inner.read() == body


async def test_a_mapped_body_is_copied_to_its_name(image_in: MakeImage, tmp_path: Path, body: bytes) -> None:
    """Its own file stays without a name, so that nobody can cut it."""
    image = await asyncio.to_thread(image_in, body, "file")
    inode, _ = inode_of(tmp_path)
    mapped = await image.to_mmap()
    await mapped.save(tmp_path / "of the mapping")
    await image.save(tmp_path / "of the file")
    for name in ("of the mapping", "of the file"):
        assert os.stat(tmp_path / name).st_ino != inode
        os.truncate(tmp_path / name, 10)
    assert await mapped.read() == await image.read() == body


async def test_cutting_a_saved_body_is_an_error_of_its_reader(image_in: MakeImage, tmp_path: Path, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, "file")
    await image.save(tmp_path / "name")
    os.truncate(tmp_path / "name", 10)
    with pytest.raises(penstock.Truncated):
        await image.read()
    assert await image.read(10) == body[:10]


async def test_a_name_without_a_folder_is_in_the_current_one(
    image_in: MakeImage, store: str, tmp_path: Path, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    monkeypatch.chdir(tmp_path)
    await image.save("name", fsync=True)
    assert Path("name").read_bytes() == body


async def test_a_dangling_link_is_there_already(image_in: MakeImage, store: str, tmp_path: Path, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    (tmp_path / "name").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        await image.save(tmp_path / "name")
    await image.save(tmp_path / "name", overwrite=True)
    assert not (tmp_path / "name").is_symlink()
    assert (tmp_path / "name").read_bytes() == body


async def test_a_save_that_fails_says_so_and_leaves_the_image(
    image_in: MakeImage, store: str, tmp_path: Path, body: bytes
) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="save"):
        await image.save(tmp_path / "folder", overwrite=True)
    with pytest.raises(FileExistsError):
        await image.save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
    assert await image.read() == body


SYNCED = """
    import asyncio, sys, penstock

    async def main():
        folder = sys.argv[1]
        async with penstock.AsyncBodySink(penstock.Tunables(max_body_ram=int(sys.argv[2]), temp_dir=folder)) as sink:
            await sink.write(bytes(100_000))
            image = await sink.prepare()
        await image.save(folder + "/name", fsync=sys.argv[3] == "fsync")

    asyncio.run(main())
"""


@pytest.mark.parametrize("max_body_ram", [0, 1 << 20], ids=["file", "ram"])
@pytest.mark.parametrize("fsync", ["fsync", "no"])
async def test_fsync_is_of_the_file_before_and_of_the_folder_after_it_is_named(
    tmp_path: Path, max_body_ram: int, fsync: str
) -> None:
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed")
    folder, trace = tmp_path / "folder", tmp_path / "trace"
    folder.mkdir()
    command = [strace, "-f", "-y", "-e", "trace=fsync,linkat,rename,renameat,renameat2,link", "-o", str(trace)]
    command += [sys.executable, "-c", textwrap.dedent(SYNCED), str(folder), str(max_body_ram), fsync]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=False)
    check_traced(done)
    assert (folder / "name").read_bytes() == bytes(100_000)
    # By its name alone: strace escapes what of a path isn't ASCII.
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines() if f"/{folder.name}" in line]
    synced = [call for call in calls if call.startswith("fsync(")]
    if fsync == "no":
        assert synced == []
        return
    named = next(index for index, call in enumerate(calls) if f'/{folder.name}/name"' in call)
    assert calls.index(synced[0]) < named < calls.index(synced[1])
    assert f"/{folder.name}>" in synced[1]


UNLINKED = """
    import asyncio, os, sys, penstock

    async def main():
        folder = sys.argv[1]
        async with penstock.AsyncBodySink(penstock.Tunables(max_body_ram=int(sys.argv[2]), temp_dir=folder)) as sink:
            await sink.write(bytes(100_000))
            image = await sink.prepare()
        await image.save(folder + "/name")
        for taken in ("name", "folder"):
            try:
                await image.save(folder + "/" + taken)
            except FileExistsError:
                print("refused", end=" ")
        print(sorted(os.listdir(folder)))

    asyncio.run(main())
"""


@pytest.mark.parametrize("max_body_ram", [0, 1 << 20], ids=["file", "ram"])
async def test_a_file_system_without_links_keeps_a_name_from_others_until_the_body_has_it(
    tmp_path: Path, max_body_ram: int
) -> None:
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed")
    (tmp_path / "folder").mkdir()
    command = [strace, "-f", "-o", os.devnull, "-e", "trace=link,linkat,renameat2"]
    command += ["-e", "inject=link,linkat:error=EPERM", "-e", "inject=renameat2:error=EINVAL"]
    command += [sys.executable, "-c", textwrap.dedent(UNLINKED), str(tmp_path), str(max_body_ram)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=False)
    check_traced(done)
    assert done.stdout == "refused refused ['folder', 'name']\n"
    assert (tmp_path / "name").read_bytes() == bytes(100_000)
