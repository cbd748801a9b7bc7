"""Several hosts, each with a network of its own, that are cut off and joined again: ``make hosts``, docs/hosts.md."""
