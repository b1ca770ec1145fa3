"""What the cluster's users do wrong, or what their machines refuse: told without a traceback, and exits 2."""


class ClusterError(Exception):
    """A mistake or a refusal that the user can mend. The text says what was given, what is allowed, and what to do."""
