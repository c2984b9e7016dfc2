"""The report of a run: one HTML page that works offline, and the same page for several runs side by side.

`trials` reads what searches evaluated, `searching` measures how they went, `changes` what each choice bought, `details`
keeps what takes time to find out in ``report.json``; `facts` gathers everything from the run directory, and `page`,
`several` write it down. Everything on a page comes from `markup.tag`, which escapes what it is given.
"""
