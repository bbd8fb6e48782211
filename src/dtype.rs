//! The element types of stored arrays.

/// The type of the elements of a stored array: every type that the safetensors format has, under its name there.
///
/// ```
/// use taper::DType;
///
/// assert_eq!([DType::U8, DType::F16, DType::F64].map(DType::bits), [8, 16, 64]);
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
#[non_exhaustive]
pub enum DType {
    /// Truth values, a byte each.
    BOOL,
    /// Bytes, which packed codes are stored as too.
    U8,
    /// 16-bit unsigned integers.
    U16,
    /// 32-bit unsigned integers.
    U32,
    /// 64-bit unsigned integers.
    U64,
    /// 8-bit signed integers.
    I8,
    /// 16-bit signed integers.
    I16,
    /// 32-bit signed integers.
    I32,
    /// 64-bit signed integers.
    I64,
    /// 4-bit floating point (OCP Microscaling Formats, version 1.0).
    F4,
    /// 6-bit floating point with 2 bits of exponent (OCP Microscaling Formats, version 1.0).
    F6_E2M3,
    /// 6-bit floating point with 3 bits of exponent (OCP Microscaling Formats, version 1.0).
    F6_E3M2,
    /// 8-bit floating point with 4 bits of exponent (Micikevicius et al., arXiv:2209.05433).
    F8_E4M3,
    /// 8-bit floating point with 5 bits of exponent (Micikevicius et al., arXiv:2209.05433).
    F8_E5M2,
    /// Powers of two in 8 bits (OCP Microscaling Formats, version 1.0).
    F8_E8M0,
    /// 8-bit floating point with 4 bits of exponent and no negative zero (Noune et al., arXiv:2206.02915).
    F8_E4M3FNUZ,
    /// 8-bit floating point with 5 bits of exponent and no negative zero (Noune et al., arXiv:2206.02915).
    F8_E5M2FNUZ,
    /// Half precision (IEEE 754 binary16).
    F16,
    /// bfloat16: the upper half of a single-precision number.
    BF16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Complex numbers of two single-precision parts.
    C64,
}

impl DType {
    /// The size of one element in bits.
    #[must_use]
    pub fn bits(self) -> usize {
        match self {
            Self::F4 => 4,
            Self::F6_E2M3 | Self::F6_E3M2 => 6,
            Self::BOOL
            | Self::U8
            | Self::I8
            | Self::F8_E4M3
            | Self::F8_E5M2
            | Self::F8_E8M0
            | Self::F8_E4M3FNUZ
            | Self::F8_E5M2FNUZ => 8,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 16,
            Self::U32 | Self::I32 | Self::F32 => 32,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 64,
        }
    }

    /// The size of one element in bytes, rounded up.
    pub(crate) fn bytes(self) -> usize {
        self.bits().div_ceil(8)
    }
}
