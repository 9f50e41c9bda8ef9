"""`python -m cachestore` is the command line."""

from cachestore.cli import main

main()
