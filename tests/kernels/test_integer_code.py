"""The machine code of integer-only inference, disassembled: no floating-point arithmetic or conversion is in it.

The rule, by mnemonic. x86-64: refused are all of x87, every conversion (cvt), and every instruction whose name ends in a
floating-point type (ss, sd, ps, pd, sh, ph), unless it only moves, permutes or combines bits (MOVES), or begins with p or vp, as
those of vectors of integers do. AArch64: refused are all that begin with f, but fmov, and conversions and products of bfloat16.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from kbit import kernels

BUILD = Path(__file__).parents[2] / "build"
# What integer-only inference is made of; with `fixed_` names, everything that these call.
SHARED = ("view", "pool", "dispatch")
FLOATS = ("isa_avx2", "isa_scalar", "isa_neon", "products")  # members that are known to compute with floats
LEAST = 500  # instructions of an instruction set's own member

MOVES = (
    r"v?(mov\w*|unpck[hl]|shuf|[ui]?insert[fi]?|extract[fi]?|broadcast[fi]?|blend[mv]?|andn?|or|xor|maskmov|gather[dq]|scatter[dq]"
    r"|compress|expand|perm\w*)(ss|sd|ps|pd)"
)
PREFIXES = ("rep", "repz", "repnz", "lock", "notrack", "bnd", "cs", "ds", "data16", "{evex}", "{vex}")
X86 = re.compile(rf"(?!(v?p)|{MOVES}$)(f\w+|v?cvt\w*|\w+(ss|sd|ps|pd|sh|ph)[xyz]?)")
X86_EVEN = re.compile(r"v?pf\w+|vdp\w*ps|\w*bf16\w*")  # 3DNow, and products of half floats
ARM = re.compile(r"f(?!mov$)\w+|[su]cvtf|bf(cvt|dot|mla|mmla)\w*")


def is_floating(mnemonic: str, arm: bool) -> bool:
    """Whether an instruction computes with floating-point numbers, or makes one of them, or of one."""
    if arm:
        return ARM.fullmatch(mnemonic) is not None
    return X86.fullmatch(mnemonic) is not None or X86_EVEN.fullmatch(mnemonic) is not None


@cache
def disassembled(archive: Path) -> dict[str, list[str]]:
    """The mnemonics of each member of a library, by its name without `.cpp.o`; skips where no objdump reads it."""
    for tool in ("objdump", "aarch64-linux-gnu-objdump", "llvm-objdump"):
        if not shutil.which(tool):
            continue
        done = subprocess.run([tool, "-d", "--no-show-raw-insn", archive], capture_output=True, text=True)
        if done.returncode == 0 and "UNKNOWN" not in done.stdout[:2000] and "\t" in done.stdout:
            return by_member(done.stdout)
    pytest.skip("no objdump here that reads it (binutils)")


def by_member(text: str) -> dict[str, list[str]]:
    """Mnemonics from what objdump prints."""
    found: dict[str, list[str]] = defaultdict(list)
    member = ""
    for line in text.splitlines():
        if ":     file format" in line or ":\tfile format" in line:
            member = line.partition(":")[0].rpartition("/")[2].removesuffix(".o").removesuffix(".cpp")
        elif line.startswith(" ") and ":\t" in line:
            words = line.partition(":\t")[2].split()
            while words and words[0] in PREFIXES:
                words.pop(0)
            if words:
                found[member].append(words[0])
    return found


def archives() -> list[Path]:
    """Libraries of kernels that were built: the one in use, and of another machine where `make neon` was run."""
    return [*BUILD.glob("cp*/libkbit_kernels.a"), *BUILD.glob("neon/libkbit_kernels.a")]


@pytest.fixture(params=archives() or [None], ids=lambda path: path.parent.name if path else "none")
def members(request: pytest.FixtureRequest) -> tuple[bool, dict[str, list[str]]]:
    """Whether a library is for ARM, and its members."""
    if request.param is None:
        pytest.skip("no library of a build in build/ (make build)")
    found = disassembled(request.param)
    if request.param.parent.name == "neon" and not any(name.startswith("fixed_") for name in found):
        pytest.skip("a library from before there was integer-only inference (make neon)")
    return any(name.endswith("neon") for name in found), found


def test_integer_only_inference_computes_with_no_float(members):
    arm, code = members
    checked = [name for name in code if name.startswith("fixed_") or name in SHARED]
    for name in checked:
        assert sorted({word for word in code[name] if is_floating(word, arm)}) == [], name
    own = [name for name in checked if len(code[name]) > LEAST]
    isas = ["neon", "neon_dot", "scalar"] if arm else [isa.name for isa in kernels.isas()]
    assert {f"fixed_{isa}" for isa in isas} | {"fixed_program", "fixed_decoder"} <= set(own)


def test_the_floats_of_the_other_kernels_are_seen(members):
    arm, code = members
    seen = {name: {word for word in code[name] if is_floating(word, arm)} for name in FLOATS if name in code}
    assert len(seen) >= 3
    assert all(seen.values()), seen


@pytest.mark.skipif(not shutil.which("nm"), reason="no nm here (binutils)")
def test_what_integer_only_inference_calls_was_looked_at_too():
    for archive in BUILD.glob("cp*/libkbit_kernels.a"):
        defined, wanted, member = {}, defaultdict(set), ""
        for line in subprocess.run(["nm", "-C", archive], capture_output=True, text=True, check=True).stdout.splitlines():
            if line.endswith(".o:"):
                member = line.removesuffix(":").removesuffix(".o").removesuffix(".cpp")
            elif line[17:18] == "U":
                wanted[member].add(line[19:])
            elif line[17:18] in ("T", "D", "R", "B"):
                defined[line[19:]] = member
        called = {defined[name] for member in wanted if member.startswith("fixed_") for name in wanted[member] if name in defined}
        assert called <= {name for name in defined.values() if name.startswith("fixed_")} | set(SHARED)


PLANTED = (
    "return int(a * 0.5f);",
    "return a > 1 / double(b);",
    "return int(__builtin_sqrtf(float(a)));",
    "return float(a) < b;",
)


@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("objdump")), reason="no compiler or objdump here")
@pytest.mark.parametrize("line", PLANTED)
def test_a_planted_float_is_found(tmp_path, line):
    source, made = tmp_path / "fixed_planted.cpp", tmp_path / "fixed_planted.cpp.o"
    source.write_text(f"int planted(int a, int b) {{ (void)b; {line} }}")
    subprocess.run(["c++", "-O2", "-c", source, "-o", made], check=True)
    (code,) = disassembled(made).values()
    assert any(is_floating(word, arm=platform.machine() in ("aarch64", "arm64")) for word in code)


REFUSED = """
addss vaddps mulsd vfmadd231ps vfnmsub132sd divpd sqrtss vrsqrt14ps rcpps maxps vminpd cmpltps vcmpps ucomiss vcomisd cvtsi2sd
vcvtdq2ps cvttss2si vcvtps2phx vcvtpd2psy vroundps vrndscaless haddps vdpps vdpbf16ps vreducepd vscalefps vgetexpsd vfixupimmps
fld fadd fstp fildll vaddph vmulsh vcvtph2ps vrangeps vfpclassps
"""
PASSES = """
movaps vmovups movss vmovsd movhps vmovlhps vshufps unpcklps vunpckhpd vinsertf128 vextractf64x4 vbroadcastss vbroadcastf32x4
vandps vxorps vblendvps vpermilps vpermps vmaskmovps vpdpbusd vpdpwssd vpabsd pmaxsd vpmaddubsw vpsravq vpmuldq vpermd
vpgatherdd add imul cqto mfence push vpmovsxwd vpmovdb vzeroupper vgatherdps kmovw bswap shld
"""
REFUSED_ON_ARM = "fadd fmul fmla fcvtzs fcmp scvtf ucvtf frintn fcsel fneg bfdot bfcvt"
PASSES_ON_ARM = "fmov bfi bfxil sdot smlal sqxtn ldr add mul sshl tbl movi"


def test_the_rule_refuses_arithmetic_and_conversions_and_lets_integers_and_moves_pass():
    assert [word for word in REFUSED.split() if not is_floating(word, arm=False)] == []
    assert [word for word in PASSES.split() if is_floating(word, arm=False)] == []
    assert [word for word in REFUSED_ON_ARM.split() if not is_floating(word, arm=True)] == []
    assert [word for word in PASSES_ON_ARM.split() if is_floating(word, arm=True)] == []
