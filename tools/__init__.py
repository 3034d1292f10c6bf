"""Set-up, releases and versions of dependencies."""
