"""Words that say nothing about what a patch of an image shows (appendix C, "meaningful" words).

`CHATTER` is talk about the picture as a picture and about its sale; `FUNCTION` are words that a
tagger calls nouns or adjectives but that name nothing to be seen; `DATES` and number words as said.
All are dropped as whole entries and at both edges of a phrase ("stock photo of a dog" gives "dog");
inside a phrase they stay ("portrait photo studio"). `CHATTER_PHRASES` are cut out before
tagging, since their parts mean something else alone ("clip art", "royalty free").
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CHATTER = _words(
    """
    photo photos photograph photographs photography photographic
    picture pictures pic pics image images imagery snapshot screenshot screenshots
    stock illustration illustrations illustrated vector vectors clipart graphic graphics
    wallpaper wallpapers background backgrounds backdrop isolated cutout thumbnail thumbnails
    template templates mockup render rendering view views
    hd uhd resolution jpg jpeg png gif psd eps svg pdf px pixel pixels dpi
    copyright copyrighted watermark watermarks watermarked credit credits editorial royalty
    download downloads website websites webpage blog online internet
    shutterstock istock istockphoto getty alamy dreamstime depositphotos fotolia pinterest
    flickr instagram facebook twitter youtube etsy ebay
    price prices sale sales buy purchase shipping
    caption captions title untitled file files version description
    showing featuring depicting displaying including containing titled entitled called named
    """
)

FUNCTION = _words(
    """
    other others another such same own several many much more most few fewer less least only main
    various different certain similar available possible next last previous former latter
    first second third fourth fifth sixth seventh eighth ninth tenth
    two three four five six seven eight nine ten eleven twelve dozen dozens hundred hundreds
    thousand thousands million millions billion billions
    lot lots kind kinds sort sorts type types way ways thing things part parts example examples
    something anything everything nothing someone somebody anyone anybody everyone everybody
    none one ones am pm etc via per vs non
    being having doing getting going using making taking trying seeming regarding according
    following depending
    the a an and or but nor of in on at by for with from to into onto over under up down off out
    as if than then that this these those there here where when while who whom whose which what why
    how it its he him his she her hers they them their theirs we us our ours you your yours me my
    mine i is are was were be been am do does did done has have had will would shall should can
    could may might must not no yes so too very just also again ever never always often both each
    every either neither all any some about above across after against along among around before
    behind below beneath beside besides between beyond during except inside near outside since
    through throughout toward towards until upon within without because although though
    don't doesn't didn't isn't aren't wasn't weren't can't won't it's that's there's
    """
)

DATES = _words(
    """
    january february march april june july august september october november december
    jan feb mar apr jun jul aug sep sept oct nov dec
    monday tuesday wednesday thursday friday saturday sunday
    mon tue tues wed thu thurs fri
    today tomorrow yesterday date dates year years month months week weeks weekend day days
    """
)

STOP_WORDS = CHATTER | FUNCTION | DATES

CHATTER_PHRASES = re.compile(
    r"\b(?:royalty[ -]free|clip[ -]art|close[ -]ups?|high[ -](?:res(?:olution)?|quality|definition)"
    r"|full[ -]hd|copy[ -]space|all rights reserved|free downloads?|for (?:sale|free)"
    r"|in the (?:background|foreground)|black[ -]and[ -]white (?:photo(?:graph)?|image|picture))\b"
)
