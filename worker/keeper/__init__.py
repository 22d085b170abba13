"""The small process that holds an attempt's grant and deadline, and the local protocol to it.

Two sides. *Inside* (``zygote_main``, ``keeper``, ``conversation``, ``family``, ``job``, ``spool``,
``timers``, ``watchdog``, ``procfs``, ``prctl``, ``protocol``) runs in the zygote and in the keepers
forked from it: standard library only, no dataclasses and no typing at run time, since each import
there is paid for by every slot. *Outside* (``zygote``, ``client``, ``lock``, ``settle``) runs in
the slot worker and in the agent.
"""
