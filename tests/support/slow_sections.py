"""The section rules of MIMIC-CXR, implemented again: line by line, one rule after the other, as plainly as possible.

An independent reference for medunifier/data/preparation/sections.py, in tests and in benchmarks/datasets.py. The rules and the
names are those of the data set's parser (MIT-LCP/mimic-cxr, txt/section_parser.py, create_section_files.py).
"""

HEADER_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ()/,-")

# header (lower case) = name
NAMES = """
impression = impression | impresson = impression | imprression = impression | imoression = impression
impressoin = impression | imprssion = impression | impresion = impression | imperssion = impression
mpression = impression | impession = impression | ndication = impression | conclusion = impression
findings and impression = impression | findings/impression = impression | findings/ impression = impression
findings = findings | finding = findings | findins = findings | findindgs = findings | findgings = findings
findngs = findings | findnings = findings | finidngs = findings | reference findings = findings
chest, two views = findings
comparison = comparison | comparisons = comparison | comparision = comparison | comparisions = comparison
comparsion = comparison | comparrison = comparison | comparison exam = comparison | comparison film = comparison
reference exam = comparison
indication = indication | idication = indication | clinical indication = indication
reason for examination = indication | reason for exam = indication
history = history | clinical history = history | patient history = history | clinical information = history
pfi = history
examination = examination | exam = examination | type of examination = examination
recommendations = recommendations | recommendation = recommendations | recommendation(s) = recommendations
wet read = wet read | wetread = wet read
"""
NAME_OF = dict(
    pair.strip().split(" = ") for line in NAMES.split("\n") for pair in line.split("|") if pair.strip()
)
TITLES = (
    "chest", "portable", "pa and lateral", "lateral and pa", "ap and lateral", "lateral and ap", "frontal and",
    "two views", "frontal view", "pa view", "ap view", "one view", "lateral view", "bone window",
    "frontal upright", "frontal semi-upright", "ribs", "pa and lat",
)  # fmt: skip

# section = studies whose text stands in it
TEXT_UNDER = {
    "recommendations": "50913680 59768032 59067458 59087630 58157373 56482935 58375018",
    "indication": "57936451 50058765 51966317 55124749 54365831 54654948",
    "examination": "59363654 53356173 50743547 59215320 55157853",
    "technique": "59279892 53202765 50808053",
    "note": "56451190",
    "history": "51491012",
}
# studies whose text stands between two characters
TEXT_BETWEEN = """
50525523:201-349 57564132:233-554 59982525:313-717 53488209:149-475 54875119:234-988 50196495:59-399
56579911:59-218 52648681:292-631 59889364:172-453 53514462:73-377 59505494:59-450 53182247:59-412
51410602:47-320 56412866:522-822 54986978:59-306 59003148:262-505 57150433:61-394 56760320:219-457
59562049:158-348 52674888:145-296 55258338:192-568 59330497:140-655 52119491:179-454
"""
NO_TEXT = "58235663 50798377 54168089 53071062 56724958 54231141 53607029 52035334"


CUT = {rule[:8]: [int(place) for place in rule[9:].split("-")] for rule in TEXT_BETWEEN.split()}
CUT |= {study: [0, 0] for study in NO_TEXT.split()}
UNDER = {study: name for name, studies in TEXT_UNDER.items() for study in studies.split()}


def slow_report(text, study_id=None):
    """`findings, impression, body`, white space cleaned, None where there is none."""
    if study_id in CUT:
        start, end = CUT[study_id]
        return None, None, clean(text[start:end])
    sections = sections_of(text)
    if study_id in UNDER and last(sections, UNDER[study_id]) is not None:
        return None, None, clean(last(sections, UNDER[study_id]))
    findings, impression = last(sections, "findings"), last(sections, "impression")
    if findings is not None or impression is not None:
        return clean(findings), clean(impression), None
    for name in ("last paragraph", "comparison"):
        if last(sections, name) is not None:
            return None, None, clean(last(sections, name))
    return None, None, None


def sections_of(text):
    """`[name, text]` of each section, in order."""
    lines = text.split("\n")
    sections = [["preamble", lines[0]]]
    bare = False  # the line before is a header with nothing behind it
    for number, line in enumerate(lines[1:], start=1):
        if not bare and is_header(line, ends=number == len(lines) - 1):
            header, _, rest = line.partition(":")
            sections.append([name_of(header), rest[1:]])
            bare = not rest
        else:
            sections[-1][1] += line if bare else "\n" + line
            bare = False
    full = [
        section for section in sections if section[0] not in ("findings", "impression") or section[1].strip()
    ]
    if not any(name in ("findings", "impression") for name, _ in full):
        paragraphs = full[-1][1].split("\n \n")
        full[-1][1] = paragraphs[0]
        if len(paragraphs) > 1:
            full.append(["last paragraph", "\n \n".join(paragraphs[1:])])
    return full


def is_header(line, ends):
    """Whether `line` begins with one blank, capitals, a colon and white space; `ends`: it ends the report."""
    if ":" not in line or not line.startswith(" "):
        return False
    header, _, rest = line.partition(":")
    is_capital = len(header) > 1 and HEADER_CHARACTERS.issuperset(header[1:])
    return is_capital and (rest[0].isspace() if rest else not ends)


def name_of(header):
    """What a header stands for."""
    header = header.lower().strip()
    if header in NAME_OF:
        return NAME_OF[header]
    for name in ("impression", "findings", "history", "comparison", "addendum"):
        if name in header:
            return name
    return "findings" if any(title in header for title in TITLES) else header


def last(sections, wanted):
    """The text of the last section named `wanted`, or None."""
    texts = [text for name, text in sections if name == wanted]
    return texts[-1] if texts else None


def clean(text):
    """White space as single blanks; None for nothing else."""
    return (" ".join(text.split()) or None) if text else None
