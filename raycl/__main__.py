"""``python -m raycl``: the command line, where its script is not on the path."""

from raycl.cli import main

if __name__ == "__main__":
    main()
