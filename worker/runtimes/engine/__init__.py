"""A container engine, behind one dialect: only this package and its runtimes import its client.

``dialect`` says what differs between engines, ``client`` holds the connections, ``manager`` has the
verbs, ``pulls`` fetches images, ``runtime`` and ``handle`` are the runtime port on top of them.
What a *running* container needs is done by its keeper (`worker.keeper.container`), which speaks to
the engine itself.
"""
