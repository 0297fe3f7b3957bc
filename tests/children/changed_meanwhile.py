"""Converts PLACE/checkpoint, whose weights change in the named way before they are copied; prints the outcome."""

import json
import os
import sys
from pathlib import Path

from bert_pooled_mlm import ConversionError, conversion, convert

place, way = Path(sys.argv[1]), sys.argv[2]
file = place / "checkpoint" / "pytorch_model.bin"
write_output = conversion.pipeline.write_output


def changing(*args, **options):
    if way == "truncated":
        os.truncate(file, 100)
    else:
        data = file.read_bytes()
        target = file.with_name("new") if way == "replaced" else file
        target.write_bytes(data)
        target.rename(file)
    return write_output(*args, **options)


conversion.pipeline.write_output = changing
try:
    print(json.dumps(convert(place / "checkpoint", place / "out", pooler_from=place / "donor", verify=False).status))
except ConversionError as error:
    print(json.dumps(str(error)))
