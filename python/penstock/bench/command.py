"""The benchmarks' command line: `python -m penstock.bench ...`, and `penstock bench ...` by way of
`penstock.cli`. It does with the standard library alone."""

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from penstock.bench.driver import CHUNK, MIB
from penstock.bench.rounds import DebugBuildError

UNITS = {"KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}

KINDS = {"DIR": "dir", "OUT": "file"}
"""What shells complete a value by, which has such a name in the help."""


def size(text: str) -> int:
    """A number of bytes, or one with a unit: "8MiB"."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)


def address(text: str) -> str:
    """HOST:PORT. Without a host it would be all of the machine's addresses."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


class Parser(argparse.ArgumentParser):
    """Wrong usage is status 1, and help ends with examples, as with all commands of penstock."""

    def __init__(self, *, examples: Sequence[str], **options: Any) -> None:
        lines = "".join(f"  %(prog)s {example}\n" for example in examples)
        epilog = f"Examples:\n{lines}\nExit status:\n  0 done, 1 wrong usage, 2 an error, 130 interrupted"
        self.offered: list[argparse.Action] = []
        self.commands: Mapping[str, Parser] = {}
        super().__init__(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        self.offered.append(super().add_argument(*names, **options))
        return self.offered[-1]

    def error(self, message: str) -> NoReturn:
        # Some releases of CPython 3.11 let it through that nobody can be told.
        with contextlib.suppress(OSError):
            self.print_usage(sys.stderr)
            self.exit(1, f"{self.prog}: {message}\n")
        self.exit(1)


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, examples=["client --quick", "blocking --quick --peers"])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.commands = commands.choices

    demo = commands.add_parser(
        "demo",
        help="16 concurrent GETs of 8 MiB to RAM, files and mappings: table and picture",
        examples=["--rounds 3 --output pictures"],
    )
    demo.add_argument("--rounds", type=int, default=10, help="how often each is measured (default: %(default)s)")
    demo.add_argument(
        "--output", default="bench-out", metavar="DIR", help="where the picture goes (default: %(default)s)"
    )
    demo.set_defaults(run=_demo)

    client = commands.add_parser(
        "client",
        help="download as the demo does, in every way, and as other clients do",
        examples=["--quick", "--peers --json client.json --html client.html", "--url http://192.0.2.1:8080"],
    )
    client.add_argument("--url", help="of a server elsewhere, as `server` prints it (default: start one here)")
    client.add_argument(
        "--store", type=Path, metavar="DIR", help="where bodies are stored (default: where temporary files go)"
    )
    blocking = commands.add_parser(
        "blocking",
        help="run short blocking functions in every way, from one loop",
        examples=["--quick", "--peers --json blocking.json"],
    )
    for each, run in ((client, _client), (blocking, _blocking)):
        each.add_argument("--quick", action="store_true", help="within a minute, as an indication only")
        each.add_argument("--peers", action="store_true", help="also other libraries, those that are installed")
        each.add_argument("--json", type=Path, metavar="OUT", help="write all samples")
        each.add_argument("--html", type=Path, metavar="OUT", help="write a page with pictures (needs matplotlib)")
        each.set_defaults(run=run)

    server = commands.add_parser(
        "server",
        help="serve bodies for benchmarks until stdin closes or SIGTERM comes",
        examples=["--bind 0.0.0.0:8080 --size 64MiB", "--framing length"],
    )
    server.add_argument(
        "--bind", type=address, default="127.0.0.1:0", metavar="HOST:PORT", help="(default: %(default)s)"
    )
    server.add_argument("--size", type=size, default=8 * MIB, help="of the body at / (default: 8MiB)")
    server.add_argument("--chunk", type=size, default=CHUNK, help="of its chunks (default: %(default)s)")
    server.add_argument("--framing", choices=("chunked", "length"), default="chunked", help="(default: %(default)s)")
    server.set_defaults(run=_server)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from penstock.bench import demo

    return demo.run(arguments.rounds, arguments.output)


def _can_write(arguments: argparse.Namespace) -> None:
    """Raises now what would be raised when all is measured."""
    if arguments.html and find_spec("matplotlib") is None:
        raise ValueError("--html has pictures, and matplotlib is missing: pip install matplotlib")
    for path in filter(None, (arguments.json, arguments.html)):
        path.parent.stat()


def _client(arguments: argparse.Namespace) -> int:
    from penstock.bench import measure

    _can_write(arguments)
    output = measure.Output(arguments.json, arguments.html)
    return measure.client(output, arguments.quick, arguments.peers, arguments.url, arguments.store)


def _blocking(arguments: argparse.Namespace) -> int:
    from penstock.bench import measure

    _can_write(arguments)
    return measure.blocking(measure.Output(arguments.json, arguments.html), arguments.quick, arguments.peers)


def _server(arguments: argparse.Namespace) -> int:
    from penstock.bench import server

    server.serve(arguments.bind, arguments.size, arguments.chunk if arguments.framing == "chunked" else 0)
    return 0


def candidates(words: Sequence[str], begun: str) -> list[tuple[str, str]]:
    """What a shell may complete a word to that is begun, behind others, and of which kind: "plain", "file" or "dir"."""
    parser = _parser("penstock bench")
    option: argparse.Action | None = None
    for word in words:
        if option is not None:
            # Some shells have it as a word of its own.
            option = option if word == "=" else None
        elif word in parser.commands:
            parser = parser.commands[word]
        else:
            option = next((each for each in parser.offered if word in each.option_strings and each.nargs is None), None)
    if option is not None and option.metavar in KINDS:
        return [(KINDS[str(option.metavar)], begun)]
    if option is not None:
        found = list(option.choices or ())
    elif begun.startswith("-"):
        found = [name for each in parser.offered for name in each.option_strings]
    else:
        found = list(parser.commands)
    return [("plain", word) for word in found if word.startswith(begun)]


def main(argv: Sequence[str] | None = None, prog: str = "python -m penstock.bench") -> int:
    """Run a command line, `sys.argv` by default, and return its exit status; it needs no extra."""
    arguments = _parser(prog).parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (DebugBuildError, OSError, ValueError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    return status
