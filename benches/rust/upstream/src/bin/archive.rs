//! Upstream's `barc` for the rows that read and write archives: see `archive.rs` of the protocol. A larger body that is a slice of the
//! archive, or in a file, is read in pieces.

use std::io::Read;

use barc::{BarcFile, BarcReader, CompressStrategy, GzipCompressStrategy, NoCompressStrategy, Record};
use body_image::{BodyImage, BodyReader, ExplodedImage, Tunables, Tuner};
use penstock_protocol::Failure;
use penstock_protocol::archive::{Action, Library, Look, MOST_IN_MEMORY, PIECE, Task};

struct Upstream {
    tunables: Tunables,
    records: Vec<Record>,
}

impl Library for Upstream {
    fn open(task: &Task) -> Result<Self, Failure> {
        let tunables = Tuner::new().set_temp_dir(&task.dir).finish();
        let mut records = Vec::new();
        if task.action == Action::Write {
            let in_memory = Tuner::new().set_max_body_ram(MOST_IN_MEMORY).finish();
            let mut reader = BarcFile::new(&task.source).reader()?;
            while let Some(record) = reader.read(&in_memory)? {
                records.push(record);
            }
        }
        Ok(Self { tunables, records })
    }

    fn read(&self, task: &Task, look: &mut impl Look) -> Result<(), Failure> {
        let mut reader: BarcReader = BarcFile::new(&task.source).reader()?;
        while let Some(record) = reader.read(&self.tunables)? {
            for block in [&record.meta, &record.req_headers, &record.res_headers] {
                for (name, value) in block {
                    look.line(name.as_ref(), value.as_bytes());
                }
            }
            body(record.req_body, task.action, look)?;
            body(record.res_body, task.action, look)?;
        }
        Ok(())
    }

    fn write(&self, task: &Task) -> Result<(), Failure> {
        let file = BarcFile::new(&task.output);
        let mut writer = file.writer()?;
        let strategy: &dyn CompressStrategy =
            if task.gzip { &GzipCompressStrategy::default() } else { &NoCompressStrategy::default() };
        for record in &self.records {
            writer.write(record, strategy)?;
        }
        Ok(())
    }
}

fn body(mut body: BodyImage, action: Action, look: &mut impl Look) -> Result<(), Failure> {
    if body.is_ram() {
        if let ExplodedImage::Ram(pieces) = body.explode() {
            pieces.iter().for_each(|piece| look.piece(piece));
        }
        return Ok(());
    }
    if action == Action::Map {
        body.mem_map()?;
    }
    if let BodyReader::Contiguous(map) = body.reader() {
        look.piece(map.into_inner());
        return Ok(());
    }
    let mut reader = body.reader();
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(()),
            read => look.piece(&piece[..read]),
        }
    }
}

fn main() -> Result<(), Failure> {
    penstock_protocol::archive::main::<Upstream>()
}
