"""`python -m rl2jax`: the command line."""

from rl2jax.cli.main import main

if __name__ == "__main__":
    main()
