"""The walk of the command line from Python: one folder of files to a restored, published cube.

Run `make demo` first (its files serve as input), then, in the folder that holds `demo-archive`:
python examples/restore_from_python.py
"""

from pathlib import Path

import hypermend
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.restore.driver import restore

if __name__ == "__main__":
    archive, files = "python-archive", Path("demo-archive/deliveries/enmap")

    made = catalog_folder(archive, files, sensor="enmap", collection="example")
    print("items:", ", ".join(made.scenes))

    print("ingest:", ingest(IngestJob(archive=archive)).wait().count("published"), "published")

    run = restore(RestoreJob(archive=archive, task="denoise"))
    for event in run:  # or run.wait()
        print("restore:", event.kind, event.scene, f"{event.done}/{event.total}")

    for item in hypermend.open(archive).search(stage="restored"):
        print(item.scene.id, item.scene.assets["cube"].href)
