"""Tables, figures and pages, from rows alone."""
