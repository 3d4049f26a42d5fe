"""Many collections, one after the other or several at once, on this machine or on a Ray cluster.

::

    plan.py         which collections there are, what each is to become, and what is finished already
    work.py         one collection, aligned in a process of its own
    processes.py    that, on this machine
    ray_cluster.py  that, on a Ray cluster
    batch.py        all of them, and the record of what became of each: batch.json
    index.py        index.html, one page that leads to all reports
"""
