//! The GPUs that CUDA shows to this process, which need not be all of the machine's:
//! `CUDA_VISIBLE_DEVICES` hides some, and of a split GPU (MIG) there are only instances.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};

use super::{CudaError, Gpu};

/// A GPU, or an instance of one, that [`Gpu::open`] can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its identifier, without the kind: an instance has one of its own.
    pub uuid: [u8; 16],
    /// Product name.
    pub name: String,
    /// Installed VRAM, of an instance its share.
    pub total_bytes: u64,
    /// Major and minor.
    pub compute_capability: (i32, i32),
    /// Kernels may not run for long, since a display waits for them.
    pub has_time_limit: bool,
    /// The driver's compute-only model (TCC) of Windows; false elsewhere.
    pub is_compute_only: bool,
}

impl Listed {
    /// The identifier as NVML spells it, of a `kind` that is `GPU` or `MIG`.
    #[must_use]
    pub fn uuid_text(&self, kind: &str) -> String {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let u = &self.uuid;
        let parts = [&u[..4], &u[4..6], &u[6..8], &u[8..10], &u[10..]].map(hex);
        format!("{kind}-{}", parts.join("-"))
    }

    /// Whether `text`, as `GPU-01234567-89ab-...` or `MIG-...`, names it.
    #[must_use]
    pub fn is_named(&self, text: &str) -> bool {
        ["GPU", "MIG"]
            .iter()
            .any(|kind| self.uuid_text(kind).eq_ignore_ascii_case(text))
    }
}

/// What CUDA lists, in its order; nothing where it shows no GPU at all.
///
/// # Errors
/// [`CudaError::NoDriver`], or why the driver does not start.
pub fn list() -> Result<Vec<Listed>, CudaError> {
    Ok(devices()?.into_iter().map(|(_, listed)| listed).collect())
}

/// [`list`], with the driver's handles.
pub(super) fn devices() -> Result<Vec<(sys::CUdevice, Listed)>, CudaError> {
    if !super::is_available() {
        return Err(CudaError::NoDriver);
    }
    match result::init() {
        Err(error) if error.0 == CUresult::CUDA_ERROR_NO_DEVICE => return Ok(Vec::new()),
        started => started.map_err(CudaError::of("starting the driver"))?,
    }
    let count = result::device::get_count().map_err(CudaError::of("counting GPUs"))?;
    (0..count)
        .map(|ordinal| {
            let device = result::device::get(ordinal).map_err(CudaError::of("finding a GPU"))?;
            Ok((device, describe(device)?))
        })
        .collect()
}

fn describe(device: sys::CUdevice) -> Result<Listed, CudaError> {
    let attribute = |what: Attribute| {
        // SAFETY: the device comes from the driver.
        unsafe { result::device::get_attribute(device, what) }
            .map_err(CudaError::of("reading a GPU's properties"))
    };
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // Not the first version of this call, which gives an instance the identifier of its GPU.
    // SAFETY: the device comes from the driver, and `uuid` takes its 16 bytes.
    unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) }
        .result()
        .map_err(CudaError::of("reading a GPU's identifier"))?;
    // SAFETY: as above.
    let total = unsafe { result::device::total_mem(device) }
        .map_err(CudaError::of("reading the GPU's memory"))?;
    Ok(Listed {
        uuid: uuid.bytes.map(|byte| byte as u8),
        name: result::device::get_name(device).map_err(CudaError::of("naming the GPU"))?,
        total_bytes: total as u64,
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        has_time_limit: attribute(Attribute::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT)? != 0,
        is_compute_only: attribute(Attribute::CU_DEVICE_ATTRIBUTE_TCC_DRIVER)? != 0,
    })
}

/// The CUDA version that the installed driver supports, major and minor.
///
/// # Errors
/// [`CudaError::NoDriver`], or what the driver reports.
pub fn supported_version() -> Result<(i32, i32), CudaError> {
    if !super::is_available() {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: `version` takes the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(CudaError::of("reading the driver's version"))?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Bytes free and installed of the GPU `uuid`, beside a context of this process.
///
/// Where the process has none there, one is made to ask, which takes some tenths of a second.
///
/// # Errors
/// As [`Gpu::open`].
pub fn memory_of(uuid: &str) -> Result<(u64, u64), CudaError> {
    Gpu::open(uuid)?.memory()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_spelt_and_compared_as_nvml_has_them() {
        let listed = Listed {
            uuid: std::array::from_fn(|i| (i * 17) as u8),
            name: String::new(),
            total_bytes: 0,
            compute_capability: (8, 6),
            has_time_limit: false,
            is_compute_only: false,
        };
        let text = "GPU-00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(listed.uuid_text("GPU"), text);
        assert!(listed.is_named(text));
        assert!(listed.is_named("MIG-00112233-4455-6677-8899-AABBCCDDEEFF"));
        assert!(!listed.is_named("GPU-00112233-4455-6677-8899-aabbccddeefe"));
        assert!(!listed.is_named("GPU-0011"));
        assert!(!listed.is_named(""));
    }
}
