"""Peak speeds of GPUs, from their makers' data sheets: dense matrix products on tensor cores, accumulated in fp32."""

import re

PEAK_TFLOPS: dict[str, tuple[float, float | None]] = {
    # NVIDIA H100 and H200 data sheets; their figures are with sparsity, twice the dense ones
    r"H100 80GB HBM3|H200": (989.4, 494.7),
    r"H100 PCIe": (756.0, 378.0),
    r"H100 NVL|H200 NVL": (835.5, 417.5),
    # NVIDIA A100 data sheet
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": (312.0, 156.0),
    # NVIDIA L4, L40S and A10 data sheets
    r"L4": (121.0, 60.0),
    r"L40S": (362.05, 183.0),
    r"A10": (125.0, 62.5),
    # NVIDIA T4 and V100 data sheets
    r"T4": (65.0, 8.1),
    r"V100-SXM2-\d+GB": (125.0, 15.7),
    r"V100-PCIE-\d+GB": (112.0, 14.0),
    # NVIDIA Ampere GA102 and Ada whitepapers
    r"GeForce RTX 3090": (71.0, 35.6),
    r"GeForce RTX 4090": (165.2, 82.6),
    # AMD Instinct MI300X data sheet
    r"Instinct MI300X": (1307.4, None),
}
"""Name of a device, as torch gives it without its maker, to its peak TFLOP/s in half precision, and in fp32, which is
TF32 where it has that; None where TF32 is not the default."""
WITHOUT_BF16 = r"T4|V100-.*"
"""Devices whose half precision is fp16 alone."""


def peak_tflops(device_name: str, precision: str) -> float | None:
    """The peak of a device at `precision`, "bf16", "fp16" or "fp32"; None where it is not known."""
    model = re.sub(r"^(NVIDIA|Tesla|AMD) ", "", device_name)
    for name, (half, fp32) in PEAK_TFLOPS.items():
        if re.fullmatch(name, model):
            bf16 = None if re.fullmatch(WITHOUT_BF16, model) else half
            return {"bf16": bf16, "fp16": half, "fp32": fp32}.get(precision)
    return None
