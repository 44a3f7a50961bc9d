"""The program ``jaxconv``, also as ``python -m jaxconv``: its version, and the command line where that is installed."""

import sys


def main() -> int:
    """Runs what the arguments say; the version needs no extra."""
    if sys.argv[1:] == ["--version"]:
        import jaxconv
        from jaxconv.lowering.cpu import status

        print(f"jaxconv {jaxconv.__version__}\nCPU kernels: {status()}")
        return 0
    try:
        from jaxconv.cli import main as run
    except ModuleNotFoundError as error:
        from jaxconv._extras import named

        print(f"jaxconv: {named(error, 'the command line')}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
