"""The report of a stage-1 run, or of two side by side: the words that each patch says.

``python -m llava_sea.report`` writes it. `runs` finds a run's files, `reading` each patch's nearest
words, `measures` the numbers, `token_map` the t-SNE of figure 2; `grid` and `charts` draw, `page`
fills `page.html`, `make` calls all of them. A file, a record or a flag that is wrong is named in a
`UserError`.
"""
