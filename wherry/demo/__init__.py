"""``make demo``: a whole cluster on one machine, guests that move while they talk, and figures that are checked.

Measuring is apart from driving: ``pings`` and ``report`` are pure, ``daemons``, ``traffic`` and ``witness`` act,
``scenario`` tells the story, ``view`` shows it.
"""
