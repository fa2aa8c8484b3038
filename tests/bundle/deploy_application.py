"""A packed bundle in MONAI Deploy's own bundle operator, in the virtual environment of MONAI Deploy.

    python tests/bundle/deploy_application.py MODEL SCAN.nii.gz MASK.nii.gz [EXPECTED.nii.gz]

MODEL is the bundle's folder, or its ``models/model.ts`` with the bundle's folder on PYTHONPATH. Reads the scan, predicts and
writes the mask; with EXPECTED, the mask of this repository's inference, the exit code is 1 if a voxel differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator


class Read(Operator):
    """Gives a scan as Deploy's loaders do: an image without an axis of channels, and its affine."""

    def __init__(self, fragment, *args, scan, **kwargs):
        self.scan = scan
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec):
        spec.output("image")

    def compute(self, op_input, op_output, context):
        image = nib.load(self.scan)
        meta = {
            "affine": image.affine,
            "original_affine": image.affine,
            "spacing": image.header.get_zooms()[:3],
            "spatial_shape": np.array(image.shape),
            "original_channel_dim": "no_channel",
        }
        op_output.emit(Image(np.asarray(image.dataobj, dtype=np.float32), meta), "image")


class Write(Operator):
    """Writes a mask; the bundle operator gives its axes in reverse."""

    def __init__(self, fragment, *args, scan, mask, **kwargs):
        self.scan, self.mask = scan, mask
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec):
        spec.input("pred")

    def compute(self, op_input, op_output, context):
        values = np.swapaxes(op_input.receive("pred").asnumpy(), 0, 2)
        nib.save(nib.Nifti1Image(values, nib.load(self.scan).affine), self.mask)


class BundleApplication(Application):
    """Three operators: read, the bundle, write."""

    def __init__(self, model: Path, scan: Path, mask: Path):
        self.model, self.scan, self.mask = model, scan, mask
        super().__init__()

    def compose(self):
        context = AppContext({"model": str(self.model)} if self.model.is_file() else {})
        read = Read(self, CountCondition(self, 1), scan=self.scan, name="read")
        write = Write(self, scan=self.scan, mask=self.mask, name="write")
        bundle = MonaiBundleInferenceOperator(
            self,
            app_context=context,
            bundle_path=self.model,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            name="bundle",
        )
        self.add_flow(read, bundle, {("image", "image")})
        self.add_flow(bundle, write, {("pred", "pred")})


def main(model: Path, scan: Path, mask: Path, expected: Path | None = None) -> None:
    """Run the application, and compare."""
    BundleApplication(model, scan, mask).run()
    if expected is None:
        return
    ours, theirs = (np.asarray(nib.load(path).dataobj) for path in (expected, mask))
    if not np.array_equal(ours, theirs):
        raise SystemExit(f"error: {np.sum(ours != theirs) if ours.shape == theirs.shape else 'all'} voxels differ")
    print(f"equal: {ours.size} voxels, {np.count_nonzero(ours)} of them of a class")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
