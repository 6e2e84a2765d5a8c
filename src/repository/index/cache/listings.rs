//! Which packs index objects list, and which index objects stand for others.

use std::collections::BTreeSet;

use redb::{ReadableDatabase, ReadableTable};

use super::super::rows::{name_bytes, read_name};
use super::{INDEXES, IndexCache, LISTED, PACK_NUMBERS, SUPERSEDED, cache_error};
use crate::id::{IndexId, PackId, SessionId};
use crate::repository::error::Result;

impl IndexCache {
    /// Remembers which packs an index object lists.
    pub fn note_listing(&self, listings: &[(IndexId, Vec<PackId>)]) -> Result<()> {
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(LISTED).map_err(cache_error)?;
            for (index, packs) in listings {
                let names: Vec<u8> =
                    packs.iter().flat_map(|pack| name_bytes(pack.session, pack.number)).collect();
                let name = name_bytes(index.session, index.number);
                table.insert(name.as_slice(), names.as_slice()).map_err(cache_error)?;
            }
        }
        transaction.commit().map_err(cache_error)
    }

    /// For each index object in the cache: how many packs it lists, and how many of them the cache has.
    pub fn listings(&self) -> Result<Vec<(IndexId, usize, usize)>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let indexes = transaction.open_table(INDEXES).map_err(cache_error)?;
        let listed = transaction.open_table(LISTED).map_err(cache_error)?;
        let numbers = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        let mut listings = Vec::new();
        for row in indexes.iter().map_err(cache_error)? {
            let (name, ()) = row.map(|(name, _)| (name, ())).map_err(cache_error)?;
            let Some((session, number)) = read_name(name.value()) else { continue };
            let Some(packs) = listed.get(name.value()).map_err(cache_error)? else { continue };
            let names = packs.value().chunks(SessionId::LENGTH + 4);
            let (total, mut known) = (names.len(), 0);
            for pack in names {
                known += usize::from(numbers.get(pack).map_err(cache_error)?.is_some());
            }
            listings.push((IndexId { session, number }, total, known));
        }
        Ok(listings)
    }

    /// The names of index objects that those in the cache are known to supersede.
    pub fn superseded(&self) -> Result<BTreeSet<IndexId>> {
        let names = self.names(SUPERSEDED)?.into_iter();
        Ok(names.map(|PackId { session, number }| IndexId { session, number }).collect())
    }

    /// Remembers that index objects in the cache supersede these.
    pub fn supersede(&self, indexes: &[IndexId]) -> Result<()> {
        if indexes.is_empty() {
            return Ok(());
        }
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(SUPERSEDED).map_err(cache_error)?;
            for index in indexes {
                let name = name_bytes(index.session, index.number);
                table.insert(name.as_slice(), ()).map_err(cache_error)?;
            }
        }
        transaction.commit().map_err(cache_error)
    }

    /// Forgets the names of index objects that are gone, if those in the cache supersede all of them: their packs
    /// stay. Returns whether they did.
    pub fn forget_superseded(&self, gone: &[IndexId]) -> Result<bool> {
        let transaction = self.begin_write()?;
        {
            let superseded = transaction.open_table(SUPERSEDED).map_err(cache_error)?;
            let mut listed = transaction.open_table(LISTED).map_err(cache_error)?;
            let mut table = transaction.open_table(INDEXES).map_err(cache_error)?;
            for index in gone {
                let name = name_bytes(index.session, index.number);
                if superseded.get(name.as_slice()).map_err(cache_error)?.is_none() {
                    return Ok(false);
                }
                table.remove(name.as_slice()).map_err(cache_error)?;
                listed.remove(name.as_slice()).map_err(cache_error)?;
            }
        }
        transaction.commit().map_err(cache_error)?;
        Ok(true)
    }
}
