//! Which model of the catalogue suits this machine best, and what the others are beside it.

use octet_engine::plan::Fit;

use crate::catalogue::CatalogueItem;
use crate::{Comparison, Offer, OfferStatus};

/// Marks the best of the offers that runs here without reading experts from disk, or else the one
/// that takes the least, and compares those that differ in their quality.
///
/// `offers` are those of `catalogue`, in its order; what `is_gone` says of one, it is not to be had.
pub(crate) fn recommend(
    catalogue: &[CatalogueItem],
    offers: &mut [Offer],
    is_gone: impl Fn(&CatalogueItem) -> bool,
) {
    let has_room = |offer: &Offer| offer.disk.is_enough || offer.status != OfferStatus::Available;
    let to_be_had = || (0..offers.len()).filter(|i| !is_gone(&catalogue[*i]));
    let runs_well = |i: &usize| offers[*i].fit.badge == Some(Fit::Fits) && has_room(&offers[*i]);
    let best = to_be_had()
        .filter(runs_well)
        .max_by_key(|i| catalogue[*i].quality)
        .or_else(|| to_be_had().min_by_key(|i| offers[*i].size_bytes));
    for i in 0..offers.len() {
        let other = nearest(catalogue, i);
        offers[i].compared = other.map(|other| Comparison {
            to: offers[other].title.clone(),
            is_better: catalogue[i].quality > catalogue[other].quality,
            bytes: offers[i].size_bytes.abs_diff(offers[other].size_bytes),
        });
        offers[i].is_recommended = Some(i) == best;
    }
}

/// The model next in quality to number `i`, the better one of two.
fn nearest(catalogue: &[CatalogueItem], i: usize) -> Option<usize> {
    let quality = catalogue[i].quality;
    (0..catalogue.len())
        .filter(|other| catalogue[*other].quality != quality)
        .min_by_key(|other| {
            let found = catalogue[*other].quality;
            (found.abs_diff(quality), found < quality)
        })
}

#[cfg(test)]
mod tests {
    use octet_engine::hardware::{GpuStatus, Hardware, NoGpu};
    use octet_engine::plan::PlanRequest;

    use super::*;
    use crate::DiskNeed;
    use crate::catalogue::built_in;
    use crate::fit::fit;

    /// The catalogue's offers on a machine with this RAM and no GPU.
    fn offers(ram_gb: u64, disk_gb: u64, gone: &str) -> Vec<Offer> {
        let mut hardware = Hardware::detect(std::path::Path::new("."));
        hardware.gpu = GpuStatus::Absent {
            reason: NoGpu::Macos,
        };
        hardware.ram_total_bytes = ram_gb * 1_000_000_000;
        hardware.ram_available_bytes = hardware.ram_total_bytes;
        let catalogue = built_in();
        let mut offers: Vec<Offer> = catalogue
            .iter()
            .map(|item| Offer {
                repo: item.repo.to_string(),
                title: item.title.to_owned(),
                about: item.about.to_owned(),
                license: None,
                page: String::new(),
                size_bytes: item.sizes.file_bytes(),
                files: item.files,
                quantization: None,
                tokenizer_from: Vec::new(),
                fit: fit(&item.sizes, &hardware, &PlanRequest::default()),
                disk: DiskNeed {
                    needed_bytes: item.sizes.file_bytes(),
                    free_bytes: Some(disk_gb * 1_000_000_000),
                    is_enough: item.sizes.file_bytes() < disk_gb * 1_000_000_000,
                },
                status: OfferStatus::Available,
                is_recommended: false,
                compared: None,
            })
            .collect();
        recommend(&catalogue, &mut offers, |item| item.repo.as_str() == gone);
        offers
    }

    fn recommended(ram_gb: u64, disk_gb: u64, gone: &str) -> String {
        let offers = offers(ram_gb, disk_gb, gone);
        let mut marked = offers.iter().filter(|offer| offer.is_recommended);
        let repo = marked.next().expect("one is recommended").repo.clone();
        assert!(marked.next().is_none(), "only one");
        repo
    }

    #[test]
    fn the_best_that_runs_without_disk_is_recommended() {
        let [small, large] = [0, 1].map(|i| built_in()[i].repo.to_string());
        // 2 bits take 20.6 GB with their context, 3 bits 23.1 GB.
        assert_eq!(recommended(64, 500, ""), large);
        assert_eq!(recommended(32, 500, ""), large);
        assert_eq!(recommended(24, 500, ""), small);
        // From disk, the one of which less is read.
        assert_eq!(recommended(12, 500, ""), small);
        assert_eq!(recommended(1, 500, ""), small);
        // No room for it, or the hub does not have it.
        assert_eq!(recommended(64, 20, ""), small);
        assert_eq!(recommended(64, 500, &large), small);
    }

    #[test]
    fn what_differs_is_said_of_both() {
        let offers = offers(64, 500, "");
        let compared = |i: usize| offers[i].compared.clone().expect("they differ");
        assert!(compared(1).is_better && !compared(0).is_better);
        assert_eq!(compared(1).to, offers[0].title);
        assert_eq!(compared(0).to, offers[1].title);
        assert_eq!(compared(0).bytes, compared(1).bytes);
        let gb = compared(0).bytes as f64 / 1e9;
        assert!((2.4..2.6).contains(&gb), "{gb}");
    }
}
