"""Figures of relevance for print, screen and notebook; none needs a display.

==========================  ===============================================================================
`plot_overlay`              a map over its image
`plot_heatmap`              a signed map on white
`plot_comparison`           methods beside each other on one image, with their totals
`plot_batch`                images above, maps below
`plot_distribution`         histogram of values, of one map or several
`plot_top_regions`          the k squares that matter most (`top_regions` returns them)
`plot_text`                 words on their colours (`text_html` in HTML, `whole_words` joins a tokenizer's pieces)
`plot_token_matrix`         what each generated token rests on
`plot_signal`               curves with relevance behind them, one panel a channel
`plot_features`             bars with the names of a table's columns
`plot_volume`               slices and projections of a volume
`plot_segmentation`         the explained region outlined
`plot_detection`            the explained box
`plot_ledger`               where the logit went, operation by operation
`draw_mask_contour`         the outline of the lungs on any axes
`save_figure`               atomically, at publication resolution
==========================  ===============================================================================

Zero is exactly white, scales are symmetric, channels are summed with their sign.
"""

from lrp_plugin.files import write_atomically
from lrp_plugin.visualization.arrays import display_image, region_mask, relevance_map
from lrp_plugin.visualization.curves import plot_features, plot_signal
from lrp_plugin.visualization.grids import SIGNLESS, plot_batch, plot_comparison
from lrp_plugin.visualization.ledger import LEDGER_COLUMNS, plot_ledger
from lrp_plugin.visualization.look import Look, draw_image, draw_mask_contour
from lrp_plugin.visualization.maps import plot_heatmap, plot_overlay
from lrp_plugin.visualization.objects import plot_detection, plot_segmentation
from lrp_plugin.visualization.regions import Region, plot_distribution, plot_top_regions, top_regions
from lrp_plugin.visualization.saving import save_figure
from lrp_plugin.visualization.showing import Picture, unshown
from lrp_plugin.visualization.style import RELEVANCE, RELEVANCE_ON_IMAGE, number, percent
from lrp_plugin.visualization.text import plot_text, plot_token_matrix, text_html, whole_words
from lrp_plugin.visualization.volumes import plot_volume

__all__ = [
    "LEDGER_COLUMNS",
    "Look",
    "Picture",
    "RELEVANCE",
    "RELEVANCE_ON_IMAGE",
    "Region",
    "SIGNLESS",
    "display_image",
    "draw_image",
    "draw_mask_contour",
    "number",
    "percent",
    "plot_batch",
    "plot_comparison",
    "plot_detection",
    "plot_distribution",
    "plot_features",
    "plot_heatmap",
    "plot_ledger",
    "plot_overlay",
    "plot_segmentation",
    "plot_signal",
    "plot_text",
    "plot_token_matrix",
    "plot_top_regions",
    "plot_volume",
    "region_mask",
    "relevance_map",
    "save_figure",
    "text_html",
    "top_regions",
    "unshown",
    "whole_words",
    "write_atomically",
]
