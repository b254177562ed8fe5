"""`python -m arrcoc_verify` is `arrcoc-verify`."""

from arrcoc_verify.cli import main

if __name__ == "__main__":
    main()
