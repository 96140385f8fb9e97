"""The report of a stage-1 run, or of two side by side: what each patch says.

`folder` finds a run's files, `pair` tells whether two fit, `measures` has the numbers, `reading`
the words, `token_map` the t-SNE of figure 2; the modules in `_svg` and `_html` draw the sections
of `page`, `pngs` and `map_png` the files beside it. ``python -m llava_sea.report`` does it all.
"""
